"""Tasks as `run_stage` gives them to a stage's work, for tests that call the work by itself."""

import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from shards.progress import Progress, silent
from shards.store.executor import Advance, Executor, Job, Unit
from shards.store.receipt import Receipt
from shards.store.stage import Task
from shards.workers.job_file import read_job, read_units, write_job
from shards.workers.worker import do_units
from xdc_core.config.evaluation import EvaluationSettings
from xdc_core.graph.stages import STAGES
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.runs.task import task_of
from xdc_core.stages.cluster import clustered_features
from xdc_core.training.targets import TrainingTargets, open_targets, write_targets


def task_for(run: Run, node: Node, out: Path | None = None, progress: Progress = silent) -> Task[Any]:
    """The task of a node; without `out` it writes into a folder of the run that is not there."""
    return task_of(STAGES[node.stage], run, node, out or run.root / "out", progress)


class Backwards:
    """Does units as workers do: from the files of the job, one unit at a time; and the last one first."""

    def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
        path = write_job(job, units)
        for unit in reversed(list(read_units(path))):
            for receipt in do_units(read_job(path), [unit]):
                received(receipt)


BACKWARDS: Executor = Backwards()


def targets_of(run: Run, node: Node) -> TrainingTargets:
    """The targets of a training; of the files nothing stays but what is mapped."""
    out = Path(tempfile.mkdtemp(dir=run.root, prefix="targets-"))
    task = task_for(run, node, out)
    try:
        write_targets(task)
        return open_targets(task)
    finally:
        shutil.rmtree(out)


def evaluation_task(run: Run, evaluation: EvaluationSettings, number: int) -> Task[Any]:
    """The task of an evaluation that the run's configuration does not have."""
    asked = run.config.model_copy(update={"evaluate": {"asked": evaluation}})
    return task_for(Run(run.root, asked), Node("eval", "asked", number))


def features_of(run: Run, number: int, source: str) -> list[Path]:
    """The directories of the features from which a label source is clustered in a round."""
    return [run.directory(node) for node in clustered_features(run.config, Node("cluster", source, number))]
