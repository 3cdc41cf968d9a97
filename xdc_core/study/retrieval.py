"""A study's table of retrieval: one modality of a test clip is found by another."""

import re
from typing import Any

from xdc_core.study.results import TEST
from xdc_core.study.summary import contenders, last_row, shown, with_spread

CHANCE = "chance"


def retrieval_tables(results: dict[str, Any], variant: str) -> list[str]:
    """Return the table of recall at 1 of the class and at 1 and 10 of the pair, by direction; [] without retrieval."""
    there = {row["metric"]: row["factor"] for row in results["summary"] if row["variant"] == variant}
    ways = [name.removesuffix(".pair.1") for name in there if re.search(r"_to_\w+\.pair\.1$", name)]
    if not ways:
        return []
    (factor,) = {there[f"{way}.pair.1"] for way in ways}
    kinds = {"class.1": f"same {factor} first", "pair.1": "its pair first", "pair.10": "its pair in the first 10"}
    kinds = {kind: words for kind, words in kinds.items() if f"{ways[0]}.{kind}" in there}
    heads = [f"{words} by {way.partition('_to_')[0]}" for words in kinds.values() for way in ways]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    names = contenders(results, variant)
    for contender in names:
        cells = [
            with_spread(last_row(results, variant, contender, None, f"{way}.{kind}", TEST, factor))
            for kind in kinds
            for way in ways
        ]
        if any(cells):
            lines.append(f"| {contender} | " + " | ".join(cells) + " |")
    chance = {kind: _chance(results, variant, names, kind, factor) for kind in kinds}
    lines.append(f"| *{CHANCE}* | " + " | ".join(chance[kind] for kind in kinds for _ in ways) + " |")
    return ["Retrieval, test clips:\n\n" + "\n".join(lines) + "\n"]


def _chance(results: dict[str, Any], variant: str, names: list[str], kind: str, factor: str) -> str:
    """Return the recall of a random order: it is the same for all contenders."""
    rows = (last_row(results, variant, name, None, f"{CHANCE}.{kind}", TEST, factor) for name in names)
    return next((shown(row, 4) for row in rows if row), "")
