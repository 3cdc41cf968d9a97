"""Comparison of the names of splits."""

from collections.abc import Iterable, Sequence

from shards.errors import ConfigError


def split_name(text: str | None) -> str:
    """Return the name without surrounding space and in one case: ` Train` and `train` are the same split."""
    return (text or "").strip().casefold()


def check_learn_splits(wanted: Sequence[str] | None, there: Iterable[str | None], where: str) -> None:
    """Check that every split in corpus.learn_splits exists in `where`; `there` are its splits.

    Raises:
        ConfigError: one does not exist; the text lists the existing splits.
    """
    if wanted is None:
        return
    known = {split_name(split): (split or "").strip() for split in there}
    if lacking := [split for split in wanted if split_name(split) not in known]:
        listed = ", ".join(f"{split!r}" if split else "'' (no split)" for split in sorted(known.values())) or "none"
        raise ConfigError(
            f"corpus.learn_splits: nothing in {where} has the split {', '.join(map(repr, lacking))}. Its splits are: "
            f"{listed}. Correct corpus.learn_splits, or set it to null to learn from every clip."
        )
