"""The executor `slurm`: units as tasks of job arrays, on machines that share the disk of the run.

Nothing is needed but Slurm's command-line tools. A task of an array is one process that imports the work once and does
many units. The stage finds out from the receipts on the shared disk what is done. When an array has ended, what has no
receipt is submitted again. Slurm itself repeats nothing (`--no-requeue`): it would wait two minutes, and then repeat
units that are done.
"""

import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from flows.executors.kind import ExecutorKind
from flows.executors.slurm.agents import SlurmAgents, start_agents
from flows.executors.slurm.array import ARRAYS, array_name, follow, gave_up, remove_logs, submit_array
from flows.executors.slurm.jobs import cancel
from flows.executors.slurm.settings import SlurmSettings, resources
from flows.executors.slurm.tools import (
    TOOLS,
    NoAnswer,
    Refusal,
    check_options,
    check_partition,
    has_gpus,
    largest_array,
    patiently,
)
from shards.errors import ConfigError, StageError
from shards.store.executor import Advance, Job, Unit
from shards.store.receipt import UNITS, Receipt
from shards.workers.job_file import read_units, write_job
from xdc_core.config.schema import RunsOn

# Units whose shards are held in memory at once.
UNITS_AT_ONCE = 100_000
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Slurm:
    """The executor `slurm`. See `shards.store.executor.Executor`. device: as in `runs_on.device`."""

    settings: SlurmSettings
    device: str = "auto"

    def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
        """Do the units, as described in `Executor`. SIGTERM cancels the tasks and raises StageError."""
        path = write_job(job, units)
        Path(job.logs).mkdir(parents=True, exist_ok=True)
        folder = Path(job.out) / UNITS / ARRAYS
        folder.mkdir(exist_ok=True)
        with _sigterm_raised(job.name):
            _cancel(f"--name={array_name(job)}")  # What an earlier process of this stage has left.
            for earlier in folder.iterdir():
                earlier.unlink()
            gpus = _answer(lambda: _gpus(self.settings, job.gpu, self.device), job.name, partial(advance, 0, 0))
            most = min(self.settings.array, _answer(largest_array, job.name, partial(advance, 0, 0)))
            at_once = min(most * (self.settings.units_per_task or UNITS_AT_ONCE), UNITS_AT_ONCE)
            listed = enumerate(read_units(path))
            while wave := list(islice(listed, at_once)):
                missing = {shard: line for line, unit in wave for shard in unit.shards}
                self._finish(job, path, missing, gpus, most, received, advance)

    def start_agents(
        self,
        command: Sequence[str],
        machines: int,
        processes: int,
        gpu: bool,
        log: Path,
        waiting: Callable[[str], None] = lambda text: None,
    ) -> SlurmAgents:
        """Start the agents of a training, as described in `xdc_core.ranks.launcher.Launcher`."""
        settings = self.settings
        python = [settings.python or word if word == sys.executable else word for word in command]
        gpus = _answer(lambda: _gpus(settings, gpu, self.device), "the agents of a training", waiting)
        return start_agents(python, machines, resources(settings, gpus, processes), settings, log, waiting)

    def _finish(
        self,
        job: Job,
        path: Path,
        missing: dict[str, int],
        gpus: int,
        most: int,
        received: Callable[[Receipt], None],
        advance: Advance,
    ) -> None:
        """Submit arrays until no shard is missing. missing: shard -> the line of its unit; is emptied."""
        fruitless = 0
        while missing:
            before, array = len(missing), None
            try:
                array = submit_array(job, path, sorted(set(missing.values())), self.settings, gpus, most, advance)
                ended = follow(array, job, missing, received, advance)
            except BaseException:
                _cancel(array.number if array else f"--name={array_name(job)}")
                raise
            if not ended:
                _cancel(array.number)  # Everything is stored: what still waits has nothing to do.
            fruitless = fruitless + 1 if len(missing) == before else 0
            if missing and fruitless >= self.settings.tries:
                raise gave_up(job, array, missing, fruitless)
            remove_logs(array, job)


def _answer(ask: Callable[[], Answer], name: str, waiting: Callable[[str], None]) -> Answer:
    """Return what Slurm answers, as `patiently` does. Raises StageError, also if it refuses to answer."""
    try:
        return patiently(ask, name, waiting)
    except Refusal as error:
        raise StageError(f"{name}: Slurm does not answer: {error}. Run this again when it does.") from error


def _gpus(settings: SlurmSettings, gpu: bool, device: str) -> int:
    """Return how many GPUs a task asks for. gpu: whether it can use one. Raises NoAnswer, Refusal."""
    if not gpu or device == "cpu":
        return 0
    if settings.gpus is not None:
        return settings.gpus
    return int(device == "cuda" or has_gpus(settings.partition))


def _cancel(which: str) -> None:
    """Cancel jobs, if Slurm answers; else their tasks end when the stage is continued, or committed."""
    try:
        cancel(which)
    except NoAnswer as error:
        print(f"Slurm job {which} could not be cancelled: {error}", file=sys.stderr, flush=True)


def _check(settings: SlurmSettings, runs_on: RunsOn) -> None:
    """Check that Slurm can be used from this machine.

    Raises:
        ConfigError: its tools are missing, it does not answer, it does not know the partition, it has no job arrays, or
            it can never run a task with these settings.
    """
    tools = (*TOOLS, "srun") if runs_on.nodes > 1 else TOOLS
    if lacking := [tool for tool in tools if shutil.which(tool) is None]:
        raise ConfigError(
            f"runs_on.executor is slurm, but this machine has no {', '.join(lacking)}. Start xdc on a machine of the "
            "cluster from which jobs are submitted, or set runs_on.executor to local."
        )
    try:
        check_partition(settings.partition)
        largest_array()
        check_options(resources(settings, _gpus(settings, True, runs_on.device)))
    except (NoAnswer, Refusal) as error:
        raise ConfigError(
            f"runs_on.executor is slurm, but Slurm does not answer: {error}. Start xdc on a machine of the cluster, or "
            "set runs_on.executor to local."
        ) from error


def _make(settings: SlurmSettings, runs_on: RunsOn) -> Slurm:
    return Slurm(settings, runs_on.device)


@contextmanager
def _sigterm_raised(name: str) -> Iterator[None]:
    """Raise StageError on the first SIGTERM while active, so that tasks are cancelled. Another one would end that.

    Outside the main thread do nothing.
    """
    came = False

    def stop(number: int, _: object) -> None:
        nonlocal came
        if came:
            return
        came = True
        raise StageError(f"SIGTERM ended {name}. What is finished is kept: run it again.")

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


SLURM = ExecutorKind("slurm", SlurmSettings, _check, _make)
