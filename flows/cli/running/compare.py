"""Run a study from the command line: create its digits, run the nodes of all cells, and write the results."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.executors.preflight import check_run
from flows.runners.forked import Children
from flows.runners.scheduler import Job, Scheduler
from flows.terminal import TerminalListener, counter, show_progress
from shards.command import command
from shards.cores import core_count
from shards.digits.corpus import write_digits
from shards.errors import Busy, ConfigError, StageError, XdcError
from shards.store.build import Record
from shards.store.files import write_text
from xdc_core.config.load import parse_section
from xdc_core.config.write import commented_yaml
from xdc_core.graph.run_stage import all_fresh
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.study.cells import Cell, make_cells
from xdc_core.study.settings import FILE_NAME, StudySettings, load_study
from xdc_core.study.write import write_study

NOTES = """A study of audio-visual digits. Change it before its first run; later, make another one.
{command} does what is missing of it, and writes table.md, figure.svg and results.parquet."""


def make_study(root: Path, choices: dict[str, Any]) -> bool:
    """Write `root`/study.yaml, unless it exists with the same choices. Return whether it was written.

    Raises:
        ConfigError: a different study exists there, or a value is wrong.
    """
    file = root / FILE_NAME
    if choices.get("speech"):
        choices["speech"] = os.path.relpath(choices["speech"], root)
    if not file.exists():
        study = parse_section(StudySettings, choices, "the study")
        write_text(file, commented_yaml(study, NOTES.format(command=command("xdc", "compare", root))))
        return True
    there = load_study(root).model_dump()
    asked = parse_section(StudySettings, choices, "the study").model_dump()
    differing = [name for name in choices if there[name] != asked[name]]
    if differing:
        raise ConfigError(f"{file} exists already, with another {', '.join(differing)}. Choose another folder.")
    return False


def parse_overrides(texts: list[str], several: bool = False) -> dict[str, Any]:
    """Return NAME=VALUE texts as a dictionary of YAML values; with `several`, values are separated by commas.

    Raises:
        ConfigError: a text has no =.
    """
    overrides = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"{text!r}: NAME=VALUE was expected, as in train.lr=0.001.")
        overrides[name] = tuple(map(yaml.safe_load, value.split(","))) if several else yaml.safe_load(value)
    return overrides


def print_study(root: Path, results: dict[str, Any]) -> None:
    """Print the table, and where the other results are."""
    print((root / "table.md").read_text(encoding="utf-8"))
    seconds = [cell["seconds"] for cell in results["cells"]]
    print(f"{len(seconds)} runs took {sum(seconds) / 60:.1f} CPU minutes, {max(seconds) / 60:.1f} at most each.")
    print(
        f"Every number: {root}/results.parquet. Figure: {root}/figure.svg. Runs: {root}/runs (xdc status, xdc report)"
    )


def run_study(root: Path, max_parallel: int | None = None) -> dict[str, Any]:
    """Run what is missing of a study. Return the content of study.json.

    Raises:
        ConfigError: the runs' executor cannot be used.
        StageError: cells failed; the results of the others are written.
    """
    study = load_study(root)
    cells = make_cells(study, root)
    for cell in cells:
        if not cell.videos.exists() or not all_fresh(cell.run, all_nodes(cell.run.config)):
            check_run(cell.run)
            break
    for videos, cell in {cell.videos: cell for cell in cells}.items():
        with counter(f"digits {videos.name}") as progress:
            write_digits(videos, cell.digits, progress)
    failures = run_cells(cells, max_parallel or core_count())
    results = write_study(root, study, cells)
    if failures:
        raise StageError(f"{len(failures)} stages of the study failed or were not reached, the first: {failures[0]}")
    return results


@dataclass(frozen=True)
class CellListener:
    """A listener for many runs: it prints a line per finished round, and one per failure."""

    run: Run
    terminal: TerminalListener

    def progress(self, node: Node, done: int, total: int, note: str) -> None:
        """Ignore it: too many nodes are in progress."""

    def waiting(self, node: Node, busy: Busy) -> None:
        """Ignore it: a study does not wait for other processes."""

    def finished(self, node: Node, record: Record) -> None:
        """Print a line when a round is reported."""
        if node.stage == "report" and not record.reused:
            self.terminal.line(f"{self.run.root.name}: round {node.round} of {self.run.config.rounds} is finished")

    def failed(self, node: Node, error: XdcError) -> None:
        """Print a line."""
        self.terminal.line(f"{self.run.root.name}, {node}: FAILED. {error}")


def run_cells(cells: list[Cell], max_parallel: int) -> list[str]:
    """Run the cells' nodes as ordinary stages, at most `max_parallel` at once. Return a text per failure."""
    jobs = [Job(cell.run, node) for cell in cells for node in all_nodes(cell.run.config)]
    with Children() as children, show_progress() as terminal:
        scheduler = Scheduler(children, lambda run: CellListener(run, terminal))
        scheduler.run(jobs, max_parallel)
    failures = [f"{path}: {error}" for (path, _), error in scheduler.failed.items()]
    return failures + [f"{path}: not reached" for path, _ in scheduler.not_reached]
