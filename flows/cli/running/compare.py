"""Run a study: create its digits, run the nodes of all cells, and write the results after every round."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.executors.preflight import check_run
from flows.runners.forked import Children
from flows.runners.scheduler import Job, Scheduler
from flows.terminal import TerminalListener, counter, show_progress
from shards.cores import core_count
from shards.digits.corpus import write_digits
from shards.errors import Busy, StageError, XdcError
from shards.store.build import Record
from shards.store.manifest import read_manifest
from xdc_core.cleaning.retain import retain
from xdc_core.graph.run_stage import all_fresh
from xdc_core.runs.node import Node
from xdc_core.study.cells import Cell, nodes_of, plan_cells, write_cells
from xdc_core.study.corpora import check_own_corpus, write_probe_data
from xdc_core.study.results import seconds_of
from xdc_core.study.settings import StudySettings, save_study
from xdc_core.study.write import StudyFiles


def print_study(root: Path, results: dict[str, Any]) -> None:
    """Print the table, and where the other results are."""
    print((root / "table.md").read_text(encoding="utf-8"))
    seconds = [cell["seconds"] for cell in results["cells"]]
    print(f"{len(seconds)} runs took {sum(seconds) / 60:.1f} CPU minutes, {max(seconds) / 60:.1f} at most each.")
    left = [cell["run"] for cell in results["cells"] if not cell["finished"]]
    if left:
        print(f"{len(left)} of them are not finished (see {root}/table.md). The same command continues them.")
    print(
        f"Every number: {root}/results.parquet. Figure: {root}/figure.svg. Runs: {root}/runs (xdc status, xdc report)"
    )


def run_study(
    root: Path, study: StudySettings, max_parallel: int | None = None, cpu_hours: float | None = None
) -> dict[str, Any]:
    """Run what is missing of a study. Return the content of study.json.

    The study and its runs are written once all is checked, and its results again after every round of a run.
    cpu_hours: when the runs' stages, of this and of earlier calls, have taken this many CPU hours, nothing further is
    started.

    Raises:
        ConfigError: the runs' executor cannot be used, or the study's clips lack its splits or labels.
        StageError: cells failed; the results of the others are written.
    """
    cells = plan_cells(study, root)
    if study.own:
        configs = [cell.run.config for cell in cells]
        truths = sorted({config.truth for config in configs if config.method == "supervised"})
        for corpus, run in {cell.run.corpus: cell.run for cell in cells}.items():
            check_own_corpus(study, corpus, run.videos, run.config.corpus, truths)
    left_out = write_probe_data(study, root)
    save_study(root, study)
    write_cells(cells, root)
    for cell in cells:
        if (cell.videos and not cell.videos.exists()) or not all_fresh(cell.run, nodes_of(cell)):
            check_run(cell.run)
            break
    for videos, cell in {cell.videos: cell for cell in cells}.items():
        if videos is not None and cell.digits is not None:
            with counter(f"digits {videos.name}") as progress:
                write_digits(videos, cell.digits, progress)
    files = StudyFiles(root, study, cells, left_out)
    files.write(figure=False)
    budget = Budget(sum(map(seconds_of, cells)), cpu_hours)
    failures = run_cells(cells, max_parallel or core_count(), files, budget)
    files.cpu_hours = cpu_hours if budget.used_up() else None
    results = files.write()
    if failures:
        raise StageError(f"{len(failures)} stages of the study failed or were not reached, the first: {failures[0]}")
    return results


@dataclass
class Budget:
    """CPU seconds that a study has taken, and the CPU hours that it may take; None: as many as it needs."""

    seconds: float
    hours: float | None
    lock: Any = field(default_factory=threading.Lock)

    def used_up(self) -> bool:
        """Return whether nothing further may be started."""
        return self.hours is not None and self.seconds >= self.hours * 3600

    def add(self, record: Record) -> None:
        """Count the work of a node. Clips that runs share are not counted."""
        manifest = read_manifest(Path(record.path))
        if manifest is not None and record.stage not in ("shard", "data"):
            with self.lock:
                self.seconds += manifest.cpu_seconds or manifest.seconds


@dataclass(frozen=True)
class CellListener:
    """A listener for many runs: for a finished round it prints a line and writes the study's files; also failures."""

    cell: Cell
    terminal: TerminalListener
    files: StudyFiles
    budget: Budget

    def progress(self, node: Node, done: int, total: int, note: str) -> None:
        """Ignore it: too many nodes are in progress."""

    def waiting(self, node: Node, busy: Busy) -> None:
        """Ignore it: a study does not wait for other processes."""

    def finished(self, node: Node, record: Record) -> None:
        """Count the work; when a round is reported, print a line and write the study's files."""
        if record.reused:
            return
        self.budget.add(record)
        if node.stage == "report":
            run = self.cell.run
            if line := retain(run):
                self.terminal.line(f"{run.root.name}: {line}")
            self.terminal.line(f"{run.root.name}: round {node.round} of {run.config.last_round} is finished")
            try:
                self.files.write([self.cell], figure=node.round == run.config.last_round)
            except (XdcError, OSError, ValueError) as error:  # The round is finished all the same.
                self.terminal.line(
                    f"{run.root.name}: the study's files are written later, for now they are not: {error}"
                )

    def failed(self, node: Node, error: XdcError) -> None:
        """Print a line."""
        self.terminal.line(f"{self.cell.run.root.name}, {node}: FAILED. {error}")


def run_cells(cells: list[Cell], max_parallel: int, files: StudyFiles, budget: Budget) -> list[str]:
    """Run the cells' nodes as ordinary stages, at most `max_parallel` at once. Return a text per failure."""
    jobs = [Job(cell.run, node) for cell in cells for node in nodes_of(cell)]
    of_run = {cell.run.root: cell for cell in cells}
    with Children() as children, show_progress() as terminal:
        scheduler = Scheduler(
            children, lambda run: CellListener(of_run[run.root], terminal, files, budget), enough=budget.used_up
        )
        scheduler.run(jobs, max_parallel)
    failures = [f"{path}: {error}" for (path, _), error in scheduler.failed.items()]
    return failures + [f"{path}: not reached" for path, _ in scheduler.not_reached]
