"""A study's tables, in Markdown: the contenders after the last round."""

import json
from collections.abc import Iterable
from typing import Any

from xdc_core.study.results import TEST
from xdc_core.study.retrieval import retrieval_tables
from xdc_core.study.runs_table import left_text, runs_table
from xdc_core.study.summary import contenders, last_row, last_rows, shown, with_spread

# Heading, metric and split of the table's columns.
PROBED = (("probe, test", "probe", "test"), ("probe, validation", "probe", "validation"))
NEIGHBOURS = ("knn, test", "knn", "test")


def columns_of(results: dict[str, Any], name: str) -> list[tuple[str, str, str]]:
    """Return heading, metric and split of the main table's columns. name: of what is predicted."""
    metrics = {row["metric"] for row in results["summary"]}
    split = TEST if results["probe_on"] else "all"
    of_clusters = (f"NMI with {name}", "nmi", split), ("AMI", "ami", split)
    probed = PROBED if results["validation"] else PROBED[:1]
    return [*probed, *([NEIGHBOURS] if NEIGHBOURS[1] in metrics else []), *of_clusters]


def table_of(results: dict[str, Any]) -> str:
    """Return the tables of every variant: mean and standard deviation over seeds, and agreement with other factors."""
    parts = [f"# {results['study']}\n\nAfter {results['rounds']} rounds; mean ± standard deviation over n runs.\n"]
    parts += _differing(results)
    results = results | {"summary": last_rows(results)}
    for variant in dict.fromkeys(row["variant"] for row in results["summary"]):
        named = ", ".join(f"{name} = {value}" for name, value in json.loads(variant).items())
        first, *others = results["targets"]
        parts.append(f"## {named or 'All contenders'}\n\n{_main(results, variant, first)}")
        parts += _apart(results, variant)
        parts.append(runs_table(results, variant))
        for target in others:
            parts.append(f"### {name_of(target, results['digits'])}\n\n{_main(results, variant, target)}")
        parts += retrieval_tables(results, variant)
        if private := _private(results, variant):
            parts.append(f"Agreement of the clusters with other factors (AMI; {_modalities(results)}):\n\n{private}")
    parts += left_text(results)
    return "\n".join(parts)


def _differing(results: dict[str, Any]) -> list[str]:
    """Return which contenders have one more training, and which begin with other encoders than scratch."""
    lasts = [item for of_variant in results["last_rounds"].values() for item in of_variant.items()]
    longer = dict.fromkeys(name for name, last in lasts if last > results["rounds"])
    texts = []
    if longer:
        texts.append(
            f"One more training, from the first encoders (last_training), and measured after it: {_and(longer)}.\n"
        )
    if others := results["other_untrained"]:
        texts.append(
            f"scratch leaves out {_and(others)}: encoders or features differ from those of the others before any "
            "training.\n"
        )
    return texts


def _and(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def name_of(target: dict[str, str], digits: bool) -> str:
    """Return what is predicted, in words."""
    return "the digit" if digits else " / ".join(dict.fromkeys(target.values()))


def _modalities(results: dict[str, Any]) -> str:
    return " / ".join(results["modalities"])


def _main(results: dict[str, Any], variant: str, target: dict[str, str]) -> str:
    columns = columns_of(results, name_of(target, results["digits"]))
    modalities = " | ".join(results["modalities"])
    lines = ["| | n | " + " | ".join(f"{name}: {modalities}" for name, _, _ in columns) + " |"]
    lines.append("|---|---" + "|---" * len(columns) * len(results["modalities"]) + "|")
    for contender in contenders(results, variant):
        cells, count = [], 0
        for _, metric, split in columns:
            for modality, factor in target.items():
                row = last_row(results, variant, contender, modality, metric, split, factor)
                cells.append(with_spread(row))
                count = max(count, row["n"] if row else 0)
        lines.append(f"| {contender} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _apart(results: dict[str, Any], variant: str) -> list[str]:
    """Return a sentence for each main contender: whether its worst run is better than the best of all others.

    Other main contenders and those that learn labels are not among the others.
    """
    target, sentences = results["targets"][0], []
    for main in results["main"]:
        excluded = {*results["main"], *results["labelled"]}
        others = [name for name in contenders(results, variant) if name not in excluded]
        lines = []
        for modality, factor in target.items():
            own = last_row(results, variant, main, modality, "probe", "test", factor)
            rows = {name: last_row(results, variant, name, modality, "probe", "test", factor) for name in others}
            highest = max(((row["max"], name) for name, row in rows.items() if row), default=None)
            if own is None or highest is None:
                continue
            best, name = highest
            apart = "apart" if own["min"] > best else "NOT apart"
            lines.append(f"{modality}: {own['min']:.3f} against {best:.3f} ({name}), {apart}")
        if lines:
            words = f"Lowest run of {main} against the highest of all others without labels, test"
            sentences.append(f"{words}: {'; '.join(lines)}.\n")
    return sentences


def _private(results: dict[str, Any], variant: str) -> str:
    targets = {factor for target in results["targets"] for factor in target.values()}
    factors = sorted({str(row["factor"]) for row in results["summary"] if row["metric"] == "ami"} - targets)
    lines = ["| | " + " | ".join(factors) + " |", "|---" * (len(factors) + 1) + "|"]
    for contender in contenders(results, variant):
        groups = [
            [last_row(results, variant, contender, name, "ami", "all", factor) for name in results["modalities"]]
            for factor in factors
        ]
        if any(row for group in groups for row in group):
            cells = [" / ".join(shown(row, 2) for row in group) for group in groups]
            lines.append(f"| {contender} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" if factors else ""
