"""Results of several runs side by side, as the paper has them: a row a method, a column a data set."""

from pathlib import Path
from typing import Any

from shards.store.checked_read import read_stored_json
from shards.store.manifest import read_manifest
from xdc_core.config.evaluation import CORPUS
from xdc_core.evaluation.paper import PAPER
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import reuse
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

METHODS_IN_ORDER = ("scratch", "supervised", "sdc", "mdc", "cdc", "xdc")
# The one metric of a protocol that tables show; results.json has all.
HEADLINES = {"clusters": "nmi", "retrieval": "video_to_audio.pair.10"}


def headline(protocol: str) -> str:
    """The metric that stands for a protocol where there is room for one."""
    return HEADLINES.get(protocol, "accuracy")


def read_results(runs: list[Run]) -> list[dict[str, Any]]:
    """The results of all evaluations that the runs' configurations have, by round, then name.

    Each with `path`, `row`, the name of its row in the table, and `stale`: whether it was made with other settings,
    encoders or data than there are now.
    """
    found = []
    for run in runs:
        fingerprints = Fingerprints(run)
        for number in range(run.config.rounds + 1):
            for name in sorted(run.config.evaluate):
                node = Node("eval", name, number)
                if read_manifest(run.directory(node)) is None:
                    continue
                path = run.directory(node) / "results.json"
                facts = read_stored_json(path, "eval")
                stale = reuse(run, node, fingerprints) is None
                found.append(facts | {"path": str(path), "row": _row_of(facts), "stale": stale})
    return found


def _row_of(facts: dict[str, Any]) -> str:
    """The method; what a run begins with is `scratch`, or the file of weights that it was given."""
    if facts["round"] == 0:
        return f"given {Path(facts['weights']).name}" if facts["weights"] else "scratch"
    method = f"{facts['method']}, shuffled" if facts["control"] else facts["method"]
    return f"{method}, {facts['run']}, round {facts['round']}"


def markdown_table(results: list[dict[str, Any]], paper: bool = True) -> str:
    """Markdown. Mean and standard deviation over splits and seeds; the paper's numbers in rows of their own.

    In per cent, but NMI as it is. An evaluation whose metric is not defined has an empty cell.
    """
    columns = sorted({_column(facts) for facts in results})
    rows: dict[str, dict[tuple[str, str, str], list[str]]] = {}
    for facts in sorted(results, key=lambda facts: _rank(facts["row"])):
        metric = headline(facts["protocol"])
        if metric in facts["metrics"]:
            cell = _cell(facts["metrics"][metric], metric) + (" (stale)" if facts["stale"] else "")
            rows.setdefault(facts["row"], {}).setdefault(_column(facts), []).append(cell)
    # Untrained encoders of several runs share a row: each distinct result once.
    lines = ["| | " + " | ".join(" ".join(part for part in column if part) for column in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, cells in rows.items():
        lines.append(f"| {name} | " + " | ".join("; ".join(dict.fromkeys(cells.get(at, []))) for at in columns) + " |")
    if paper:
        lines += _paper_lines(results, columns)
    return "\n".join(lines) + "\n"


def _column(facts: dict[str, Any]) -> tuple[str, str, str]:
    label = facts["settings"]["label"] if facts["data"] == CORPUS else ""
    return f"{facts['data']} {label}".rstrip(), facts["protocol"], facts["modality"] or ""


def _rank(row: str) -> tuple[int, str]:
    method = row.split(",")[0]
    return (METHODS_IN_ORDER.index(method) if method in METHODS_IN_ORDER else len(METHODS_IN_ORDER), row)


def _cell(spread: dict[str, Any], metric: str) -> str:
    scale, unit = (100, "") if metric != "nmi" else (1, "NMI ")
    digits = 1 if scale == 100 else 3
    text = f"{unit}{scale * spread['mean']:.{digits}f}"
    return text if spread["sd"] is None else f"{text} ± {scale * spread['sd']:.{digits}f} (n={spread['n']})"


def _paper_lines(results: list[dict[str, Any]], columns: list[tuple[str, str, str]]) -> list[str]:
    """The paper's rows for the columns that it has: other data, other scale, not ours."""
    layouts = {_column(facts): facts["layout"] for facts in results}
    rows: dict[str, dict[tuple[str, str, str], float]] = {}
    for result in PAPER:
        for column in columns:
            if (layouts[column], column[1]) == (result.layout, result.protocol):
                name = f"*paper: {result.method}, pretrained on {result.pretrained_on}*"
                rows.setdefault(name, {})[column] = result.accuracy
    return [
        f"| {name} | " + " | ".join(f"*{cells[at]:.1f}*" if at in cells else "" for at in columns) + " |"
        for name, cells in rows.items()
    ]
