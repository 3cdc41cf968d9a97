"""The summary of a study: how its rows are found and written."""

from typing import Any

from xdc_core.study.contenders import SCRATCH


def find(results: dict[str, Any], **wanted: Any) -> dict[str, Any] | None:
    """Return the row of the summary with these values; None if there is none."""
    rows = [row for row in results["summary"] if all(row[name] == value for name, value in wanted.items())]
    assert len(rows) <= 1, wanted
    return rows[0] if rows else None


def last_of(results: dict[str, Any], variant: str, contender: str) -> int:
    """Return the last round of a contender: `rounds`, or one more with a last training from the first encoders."""
    last: int = results["last_rounds"].get(variant, {}).get(contender, results["rounds"])
    return last


def last_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the summary after the last round of each contender."""
    return [row for row in results["summary"] if row["round"] == last_of(results, row["variant"], row["contender"])]


def last_row(
    results: dict[str, Any],
    variant: str,
    contender: str,
    modality: str | None,
    metric: str,
    split: str,
    factor: str,
) -> dict[str, Any] | None:
    """Return the summary's row after the contender's last round. Joint clusters count for every modality."""
    last = last_of(results, variant, contender)
    at = {"variant": variant, "contender": contender, "round": last, "metric": metric, "split": split}
    found = find(results, **at, modality=modality, factor=factor)
    if found is None and contender != SCRATCH:
        return find(results, **at, modality="joint", factor=factor)
    return found


def contenders(results: dict[str, Any], variant: str) -> list[str]:
    """Return the contenders that have finished their last round, in the order of the paper; own ones come last."""
    there = {row["contender"] for row in last_rows(results) if row["variant"] == variant}
    return [name for name in results["contenders"] if name in there]


def with_spread(row: dict[str, Any] | None) -> str:
    """Return a mean with its spread, such as `0.830 ± 0.040`; "" if nothing was measured."""
    if row is None:
        return ""
    return shown(row) + ("" if row["sd"] is None else f" ± {row['sd']:.3f}")


def shown(row: dict[str, Any] | None, digits: int = 3) -> str:
    """Return a mean; "" if nothing was measured."""
    return "" if row is None else f"{row['mean']:.{digits}f}"
