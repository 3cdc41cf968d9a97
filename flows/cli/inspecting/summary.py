"""The results of a run, for the terminal."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shards.command import command
from shards.errors import ConfigError
from shards.store.files import part_path
from xdc_core.documents.report import Report
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.rounds import stop_line
from xdc_core.graph.state import node_state
from xdc_core.report.gather import round_report
from xdc_core.runs.corpora import lost_corpus
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

if TYPE_CHECKING:
    from rich.table import Table


def read_report(run: Run, number: int | None) -> Report:
    """Read a round's report.json; without a number, that of the newest reported round.

    Raises:
        ConfigError: there is none.
    """
    root = run.root
    if number is None:
        numbers = [n for n in range(run.config.last_round + 1) if _report(run, n).exists()]
        if not numbers:
            raise ConfigError(f"{root} has no report yet. Run a round first: {command('xdc', 'round', root)}")
        number = numbers[-1]
    if not _report(run, number).exists():
        make_it = command("xdc", "round", root, "--round", number)
        raise ConfigError(f"{root} has no report of round {number}. Make it: {make_it}")
    return round_report(run, number)


def _report(run: Run, number: int) -> Path:
    return run.round_directory(number) / "report" / "report.json"


def print_summary(run: Run, report: Report) -> None:
    """Print a table of the rounds, where the files are, and what to try next. Mark a report that is out of date."""
    from rich.console import Console
    from rich.table import Table

    label = report.first_label
    heads = ["k", "empty", "NMI with round before"] + ([f"NMI {label}", f"AMI {label}", "purity"] if label else [])
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("round", justify="right")
    table.add_column("clusters of")
    for head in heads:
        table.add_column(head, justify="right")
    for row in report.history:
        cells = [str(row.round), row.source, str(row.k), str(row.empty), _number(row.nmi_previous)]
        if label:
            cells += [_number(row.score(name, label)) for name in ("nmi", "ami", "purity")]
        table.add_row(*cells)
    console = Console(highlight=False)
    console.print(f"{report.run}: agreement of the clusters by round (0 is the encoder at the start)\n", markup=False)
    console.print(table)
    for line in (*_clusterings(report), *filter(None, [report.growth])):
        console.print(line, soft_wrap=True, markup=False)
    if report.evaluation_history:
        console.print("\nEvaluations of the encoders at the start of a round\n")
        console.print(_evaluations(report))
    for line in _what_next(run, report):
        console.print(line, soft_wrap=True, markup=False)


def _clusterings(report: Report) -> Iterator[str]:
    """Yield a line per label source with several clusterings, of which the table has the first."""
    label = report.first_label
    for name, source in report.sources.items():
        if source.clusterings:
            agreements = [source.agreement, *(further.agreement for further in source.clusterings)]
            amis = ", ".join(_number(own[label].ami) for own in agreements) if label else ""
            shown = f"; AMI {label} of each: {amis}" if amis else ""
            yield f"{name}: {len(agreements)} clusterings in round {report.round}, above is the first{shown}"


def _what_next(run: Run, report: Report) -> Iterator[str]:
    """Yield whether the report is out of date, where the files are, and commands to try next."""
    number, root = report.round, run.root
    state, why = node_state(run, Node("report", None, number), Fingerprints(run))
    if state != "fresh":
        yield f"\nThis report is {state}: {why or 'not finished'}. See: {command('xdc', 'status', root)}"
    if lost := lost_corpus(run):
        yield lost
    if stopped := stop_line(run):
        yield f"\n{stopped}"
    yield f"\nReport         {root}/rounds/{number:03d}/report/report.html"
    source = next(iter(report.sources), "truth")
    labels = run.directory(Node("label", source, number))
    files = part_path(labels, "*")
    yield f"Pseudo-labels  {labels.parent}/*/{files.relative_to(labels)}"
    trained = number if report.trained else number - 1
    if trained >= 0:
        yield f"Encoders       {root}/rounds/{trained:03d}/train/*/encoder.safetensors"
    yield f"Clips          {run.corpus}"
    yield f"\nNext:\n  {command('xdc', 'status', root)}"
    yield f"  {_count_clusters(root, str(files.relative_to(root)))}"
    again = command("xdc", "run", root)
    yield f"  {again}   (after a change in its xdc.yaml, such as cluster.k: rebuilds what became stale)"


def _count_clusters(root: Path, labels: str) -> str:
    """Return a command that counts the clips per cluster, its path quoted for DuckDB, for SQL, Python and the shell.

    `labels`: a pattern of files below `root`.
    """
    literal = re.sub(r"[\[*?]", r"[\g<0>]", str(root))  # DuckDB takes the path as a pattern.
    path = f"{literal}/{labels}".replace("'", "''")
    query = f"select cluster, count(*) clips from '{path}' group by 1 order by 2"
    code = f"import duckdb; print(duckdb.sql({json.dumps(query, ensure_ascii=False)}))"
    plain = shlex.quote(str(root)) == str(root)  # Then simpler quotes are enough.
    quoted = '"' + code.replace('"', '\\"') + '"' if plain else shlex.quote(code)
    return f"python -c {quoted}"


def _evaluations(report: Report) -> "Table":
    """Return a table with a row per round and a column per evaluation."""
    from rich.table import Table

    names = list(dict.fromkeys(row.evaluation for row in report.evaluation_history))
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for head in ("round", *names):
        table.add_column(head, justify="right")
    for number in dict.fromkeys(row.round for row in report.evaluation_history):
        means = {row.evaluation: row.mean for row in report.evaluation_history if row.round == number}
        table.add_row(str(number), *(_number(means.get(name)) for name in names))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
