"""A study's main table, in Markdown: the contenders' probes and cluster agreement after the last round."""

import json
from typing import Any

from xdc_core.study.settings import CONTENDERS, SCRATCH

# Heading, metric and split of what the table has of every contender.
COLUMNS = (
    ("probe, test", "probe", "test"),
    ("probe, validation", "probe", "validation"),
    ("NMI with the digit", "nmi", "all"),
    ("AMI", "ami", "all"),
)
SHARED = {"video": "label", "audio": "spoken"}


def find(results: dict[str, Any], **wanted: Any) -> dict[str, Any] | None:
    """Return the row of the summary that has these values; None where there is none."""
    rows = [row for row in results["summary"] if all(row[name] == value for name, value in wanted.items())]
    assert len(rows) <= 1, wanted
    return rows[0] if rows else None


def table_of(results: dict[str, Any]) -> str:
    """Return a table per variant: mean and standard deviation over seeds, and agreement with all other factors."""
    parts = [f"# {results['study']}\n\nAfter {results['rounds']} rounds; mean ± standard deviation over n runs.\n"]
    for variant in dict.fromkeys(row["variant"] for row in results["summary"]):
        named = ", ".join(f"{name} = {value}" for name, value in json.loads(variant).items())
        parts.append(f"## {named or 'All contenders'}\n\n{_main(results, variant)}")
        parts.append(_apart(results, variant))
        parts.append(f"What else the clusters agree with (AMI; video / audio):\n\n{_private(results, variant)}")
    return "\n".join(parts)


def contenders(results: dict[str, Any], variant: str) -> list[str]:
    """Return the contenders that have finished the last round, in the order of the paper."""
    there = {
        row["contender"]
        for row in results["summary"]
        if row["variant"] == variant and row["round"] == results["rounds"]
    }
    return [name for name in (SCRATCH, *CONTENDERS) if name in there]


def _main(results: dict[str, Any], variant: str) -> str:
    lines = ["| | n | " + " | ".join(f"{name}: video | audio" for name, _, _ in COLUMNS) + " |"]
    lines.append("|---|---" + "|---|---" * len(COLUMNS) + "|")
    for contender in contenders(results, variant):
        cells, count = [], 0
        for _, metric, split in COLUMNS:
            for modality in ("video", "audio"):
                row = last_row(results, variant, contender, modality, metric, split)
                cells.append(with_spread(row))
                count = max(count, row["n"] if row else 0)
        lines.append(f"| {contender} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _apart(results: dict[str, Any], variant: str) -> str:
    """Say whether the worst run of xdc is better than the best of all others that learn without labels."""
    others = [name for name in contenders(results, variant) if name not in ("xdc", "supervised")]
    lines = []
    for modality in ("video", "audio"):
        xdc = last_row(results, variant, "xdc", modality, "probe", "test")
        rows = {name: last_row(results, variant, name, modality, "probe", "test") for name in others}
        highest = max(((row["max"], name) for name, row in rows.items() if row), default=None)
        if xdc is None or highest is None:
            continue
        best, name = highest
        apart = "apart" if xdc["min"] > best else "NOT apart"
        lines.append(f"{modality}: {xdc['min']:.3f} against {best:.3f} ({name}), {apart}")
    return f"Lowest run of xdc against the highest of all others without labels, test: {'; '.join(lines)}.\n" * bool(
        lines
    )


def last_row(
    results: dict[str, Any],
    variant: str,
    contender: str,
    modality: str,
    metric: str,
    split: str,
    factor: str | None = None,
) -> dict[str, Any] | None:
    """Return the summary's row after the last round; for the digit unless a factor is named."""
    # Joint clusters stand for both modalities.
    at = {"variant": variant, "contender": contender, "round": results["rounds"], "metric": metric, "split": split}
    factor = factor or SHARED[modality]
    return find(results, **at, modality=modality, factor=factor) or find(results, **at, modality="joint", factor=factor)


def _private(results: dict[str, Any], variant: str) -> str:
    factors = sorted(
        {str(row["factor"]) for row in results["summary"] if row["metric"] == "ami"} - set(SHARED.values())
    )
    lines = ["| | " + " | ".join(factors) + " |", "|---" * (len(factors) + 1) + "|"]
    for contender in contenders(results, variant):
        pairs = [
            [last_row(results, variant, contender, modality, "ami", "all", factor) for modality in ("video", "audio")]
            for factor in factors
        ]
        if any(row for pair in pairs for row in pair):
            cells = [" / ".join("" if row is None else f"{row['mean']:.2f}" for row in pair) for pair in pairs]
            lines.append(f"| {contender} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def with_spread(row: dict[str, Any] | None) -> str:
    """Return a mean with its spread, as in `0.830 ± 0.040`; "" where nothing was measured."""
    if row is None:
        return ""
    return f"{row['mean']:.3f}" + ("" if row["sd"] is None else f" ± {row['sd']:.3f}")
