"""Results of evaluations of several runs in one table, as in the paper: a row per method, a column per data set."""

from collections.abc import Sequence
from pathlib import Path

from shards.store.manifest import read_manifest
from xdc_core.config.evaluation import CORPUS, EvaluationSettings
from xdc_core.documents.results import FILE_NAME, Results, Spread, headline
from xdc_core.documents.results import read_results as read_document
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import reuse
from xdc_core.inspection.paper import PUBLISHED, file_of
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

# Data, and the label column if there is one; protocol; modality; the recipe of a fine-tuning if it has one; the share
# of the training recordings that is held out, if it is not the default.
Column = tuple[str, str, str, str, str]
METHODS_IN_ORDER = ("scratch", "supervised", "sdc", "mdc", "cdc", "xdc")


class ListedResults(Results):
    """The results of one evaluation in a list for several runs.

    path: its results.json. row: its row in the table. stale: whether settings, encoders or data have changed since.
    """

    path: str
    row: str
    stale: bool


def read_results(runs: Sequence[Run]) -> list[ListedResults]:
    """Read the results of all evaluations in the runs' configurations, by round, then name.

    Raises:
        StageError: results are damaged.
    """
    listed = []
    for run in runs:
        fingerprints = Fingerprints(run)
        for number in range(run.config.last_round + 1):
            for name in sorted(run.config.evaluate):
                node = Node("eval", name, number)
                directory = run.directory(node)
                if read_manifest(directory) is None:
                    continue
                results = read_document(directory)
                more: dict[str, object] = {"path": str(directory / FILE_NAME), "row": _row_of(results)}
                more["stale"] = reuse(run, node, fingerprints) is None
                listed.append(ListedResults.model_validate(results.content() | more))
    return listed


def _row_of(results: Results) -> str:
    """Return the row's name: the method, or for what is there at the start `scratch` or what was given: a file
    of weights, a model, or a folder of features.
    """
    if results.round == 0:
        return f"given {Path(results.weights).name}" if results.weights else "scratch"
    method = f"{results.method}, shuffled" if results.control else results.method
    return f"{method}, {results.run}, round {results.round}"


def markdown_table(listed: Sequence[ListedResults], paper: bool = True) -> str:
    """Return a table in Markdown: means and standard deviations over splits and seeds.

    Values are in per cent, except NMI. An evaluation whose metric is not defined has an empty cell. With `paper`, the
    authors' numbers are added in separate rows that say where they are from.
    """
    columns = sorted({_column(results) for results in listed})
    rows: dict[str, dict[Column, list[str]]] = {}
    for results in sorted(listed, key=lambda results: _rank(results.row)):
        metric = headline(results.protocol, results.metrics)
        if metric in results.metrics:
            cell = _cell(results.metrics[metric], metric) + (" (stale)" if results.stale else "")
            rows.setdefault(results.row, {}).setdefault(_column(results), []).append(cell)
    # Untrained encoders of several runs share a row, with each distinct result once.
    lines = ["| | " + " | ".join(" ".join(part for part in column if part) for column in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, cells in rows.items():
        lines.append(f"| {name} | " + " | ".join("; ".join(dict.fromkeys(cells.get(at, []))) for at in columns) + " |")
    if paper:
        lines += _published_lines(listed, columns)
    return "\n".join(lines) + "\n"


def _column(results: Results) -> Column:
    label = results.settings["label"] if results.data == CORPUS else ""
    recipe = (results.settings.get("finetune") or {}).get("recipe") if results.protocol == "all" else None
    default = EvaluationSettings.model_fields["held_out"].default
    share = results.settings.get("held_out", default)
    held_out = f"held out {share:g}" if share != default else ""
    return f"{results.data} {label}".rstrip(), results.protocol, results.modality or "", recipe or "", held_out


def _rank(row: str) -> tuple[int, str]:
    method = row.split(",")[0]
    return (METHODS_IN_ORDER.index(method) if method in METHODS_IN_ORDER else len(METHODS_IN_ORDER), row)


def _cell(spread: Spread, metric: str) -> str:
    if spread.mean is None:
        return ""
    scale, unit = (100, "") if metric != "nmi" else (1, "NMI ")
    digits = 1 if scale == 100 else 3
    text = f"{unit}{scale * spread.mean:.{digits}f}"
    return text if spread.sd is None else f"{text} ± {scale * spread.sd:.{digits}f} (n={spread.n})"


def _published_lines(listed: Sequence[ListedResults], columns: list[Column]) -> list[str]:
    """Return rows of the authors' numbers in these columns: the paper's, and those of the files that were evaluated.

    Their data and scale differ from ours, except for the files.
    """
    layouts = {_column(results): results.layout for results in listed}
    evaluated = {file_of(results.weights) for results in listed if results.round == 0}
    rows: dict[str, dict[Column, float]] = {}
    for result in PUBLISHED:
        for column in columns:
            if (layouts[column], column[1]) != (result.layout, result.protocol):
                continue
            if result.file is None or result.file in evaluated:
                rows.setdefault(f"*{result.source}: {result.what}*", {})[column] = result.accuracy
    return [
        f"| {name} | " + " | ".join(f"*{cells[at]:.1f}*" if at in cells else "" for at in columns) + " |"
        for name, cells in rows.items()
    ]
