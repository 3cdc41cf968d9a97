"""A study's main table, in Markdown: contenders by what their encoders and clusters are worth in the end."""

import json
from typing import Any

from xdc_core.study.settings import CONTENDERS, SCRATCH

# heading, metric, split, factor by modality: what is written of every contender.
COLUMNS = (
    ("probe, test", "probe", "test"),
    ("probe, validation", "probe", "validation"),
    ("NMI with the digit", "nmi", "all"),
    ("AMI", "ami", "all"),
)
SHARED = {"video": "label", "audio": "spoken"}


def find(facts: dict[str, Any], **wanted: Any) -> dict[str, Any] | None:
    """The one row of the summary that has these values."""
    rows = [row for row in facts["summary"] if all(row[name] == value for name, value in wanted.items())]
    assert len(rows) <= 1, wanted
    return rows[0] if rows else None


def table_of(facts: dict[str, Any]) -> str:
    """One table a variant: mean +- standard deviation over seeds after the last round, and the private factors."""
    parts = [f"# {facts['study']}\n\nAfter {facts['rounds']} rounds; mean ± standard deviation over n runs.\n"]
    for variant in dict.fromkeys(row["variant"] for row in facts["summary"]):
        named = ", ".join(f"{name} = {value}" for name, value in json.loads(variant).items())
        parts.append(f"## {named or 'All contenders'}\n\n{_main(facts, variant)}")
        parts.append(_apart(facts, variant))
        parts.append(f"What else the clusters agree with (AMI; video / audio):\n\n{_private(facts, variant)}")
    return "\n".join(parts)


def contenders(facts: dict[str, Any], variant: str) -> list[str]:
    """Those that have a last round, in the order of the paper."""
    there = {
        row["contender"] for row in facts["summary"] if row["variant"] == variant and row["round"] == facts["rounds"]
    }
    return [name for name in (SCRATCH, *CONTENDERS) if name in there]


def _main(facts: dict[str, Any], variant: str) -> str:
    lines = ["| | n | " + " | ".join(f"{name}: video | audio" for name, _, _ in COLUMNS) + " |"]
    lines.append("|---|---" + "|---|---" * len(COLUMNS) + "|")
    for contender in contenders(facts, variant):
        cells, count = [], 0
        for _, metric, split in COLUMNS:
            for modality in ("video", "audio"):
                row = last_row(facts, variant, contender, modality, metric, split)
                cells.append(with_spread(row))
                count = max(count, row["n"] if row else 0)
        lines.append(f"| {contender} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _apart(facts: dict[str, Any], variant: str) -> str:
    """Whether the worst run of xdc is better than the best of all others that learn without labels."""
    others = [name for name in contenders(facts, variant) if name not in ("xdc", "supervised")]
    lines = []
    for modality in ("video", "audio"):
        xdc = last_row(facts, variant, "xdc", modality, "probe", "test")
        rows = {name: last_row(facts, variant, name, modality, "probe", "test") for name in others}
        highest = max(((row["max"], name) for name, row in rows.items() if row), default=None)
        if xdc is None or highest is None:
            continue
        best, name = highest
        verdict = "apart" if xdc["min"] > best else "NOT apart"
        lines.append(f"{modality}: {xdc['min']:.3f} against {best:.3f} ({name}), {verdict}")
    return f"Lowest run of xdc against the highest of all others without labels, test: {'; '.join(lines)}.\n" * bool(
        lines
    )


def last_row(
    facts: dict[str, Any],
    variant: str,
    contender: str,
    modality: str,
    metric: str,
    split: str,
    factor: str | None = None,
) -> dict[str, Any] | None:
    """After the last round; with the digit unless a factor is named."""
    # Joint clusters stand for both modalities.
    at = {"variant": variant, "contender": contender, "round": facts["rounds"], "metric": metric, "split": split}
    factor = factor or SHARED[modality]
    return find(facts, **at, modality=modality, factor=factor) or find(facts, **at, modality="joint", factor=factor)


def _private(facts: dict[str, Any], variant: str) -> str:
    factors = sorted({str(row["factor"]) for row in facts["summary"] if row["metric"] == "ami"} - set(SHARED.values()))
    lines = ["| | " + " | ".join(factors) + " |", "|---" * (len(factors) + 1) + "|"]
    for contender in contenders(facts, variant):
        pairs = [
            [last_row(facts, variant, contender, modality, "ami", "all", factor) for modality in ("video", "audio")]
            for factor in factors
        ]
        if any(row for pair in pairs for row in pair):
            cells = [" / ".join("" if row is None else f"{row['mean']:.2f}" for row in pair) for pair in pairs]
            lines.append(f"| {contender} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def with_spread(row: dict[str, Any] | None) -> str:
    """`0.83 ± 0.04`; nothing where nothing was measured."""
    if row is None:
        return ""
    return f"{row['mean']:.3f}" + ("" if row["sd"] is None else f" ± {row['sd']:.3f}")
