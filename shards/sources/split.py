"""The name of a split, as splits are compared."""

from collections.abc import Iterable, Sequence

from shards.errors import ConfigError


def split_name(text: str | None) -> str:
    """Return the name without surrounding space and regard to case: ` Train` and `train` are one split."""
    return (text or "").strip().casefold()


def check_learn_splits(wanted: Sequence[str] | None, there: Iterable[str | None], where: str) -> None:
    """Check that every one of corpus.learn_splits is the split of something in `where`; `there` are all its splits.

    Raises:
        ConfigError: one is not; says which splits there are.
    """
    if wanted is None:
        return
    known = {split_name(split): (split or "").strip() for split in there}
    if lacking := [split for split in wanted if split_name(split) not in known]:
        found = ", ".join(f"{split!r}" if split else "'' (no split)" for split in sorted(known.values())) or "none"
        raise ConfigError(
            f"corpus.learn_splits: nothing in {where} has the split {', '.join(map(repr, lacking))}. Its splits are: "
            f"{found}. Correct corpus.learn_splits, or set it to null to learn from every clip."
        )
