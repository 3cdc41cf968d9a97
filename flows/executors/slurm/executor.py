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
from itertools import islice
from pathlib import Path

from flows.executors.kind import ExecutorKind
from flows.executors.slurm.agents import SlurmAgents, start_agents
from flows.executors.slurm.array import ARRAYS, array_name, follow, gave_up, submit_array
from flows.executors.slurm.settings import SlurmSettings, resources
from flows.executors.slurm.tools import TOOLS, NoAnswer, cancel, check_options, check_partition, largest_array
from shards.errors import ConfigError, StageError
from shards.store.executor import Advance, Job, Unit
from shards.store.receipt import UNITS, Receipt
from shards.workers.job_file import read_units, write_job
from xdc_core.config.schema import RunsOn


@dataclass(frozen=True)
class Slurm:
    """The executor `slurm`. See `shards.store.executor.Executor`."""

    settings: SlurmSettings

    def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
        """Do the units, as described in `Executor`. SIGTERM cancels the tasks and raises StageError."""
        path = write_job(job, units)
        Path(job.logs).mkdir(parents=True, exist_ok=True)
        folder = Path(job.out) / UNITS / ARRAYS
        folder.mkdir(exist_ok=True)
        with _sigterm_raised(job.name):
            for earlier in folder.iterdir():
                _cancel(earlier.name)
                earlier.unlink()
            most = self._largest_array(job)
            listed = enumerate(read_units(path))
            while wave := list(islice(listed, most * self.settings.units_per_task)):
                self._finish(job, path, {shard: line for line, unit in wave for shard in unit.shards}, most, received)

    def start_agents(self, command: Sequence[str], machines: int, processes: int, gpu: bool, log: Path) -> SlurmAgents:
        """Start the agents of a training, as described in `xdc_core.ranks.launcher.Launcher`."""
        settings = self.settings
        python = [settings.python or word if word == sys.executable else word for word in command]
        return start_agents(python, machines, resources(settings, gpu, processes), settings, log)

    def _largest_array(self, job: Job) -> int:
        try:
            return min(self.settings.array, largest_array())
        except NoAnswer as error:
            raise StageError(f"{job.name}: Slurm does not answer: {error}. Run this again.") from error

    def _finish(
        self, job: Job, path: Path, missing: dict[str, int], most: int, received: Callable[[Receipt], None]
    ) -> None:
        """Submit arrays until no shard is missing. missing: shard -> the line of its unit; is emptied."""
        fruitless = 0
        while missing:
            before = len(missing)
            name = array_name(job)
            try:
                array = submit_array(name, job, path, sorted(set(missing.values())), self.settings, most)
                ended = follow(array, job, missing, received)
            except BaseException:
                _cancel(name)
                raise
            if not ended:
                _cancel(name)  # Everything is stored: what still waits has nothing to do.
            fruitless = fruitless + 1 if len(missing) == before else 0
            if missing and fruitless >= self.settings.tries:
                raise gave_up(job, array, missing, fruitless)


def _cancel(name: str) -> None:
    """Cancel a job, if Slurm answers; else its tasks fail at their next shard."""
    try:
        cancel(name)
    except NoAnswer as error:
        print(f"{name} could not be cancelled: {error}", file=sys.stderr, flush=True)


def _check(settings: SlurmSettings, runs_on: RunsOn) -> None:
    """Check that Slurm can be used from this machine.

    Raises:
        ConfigError: its tools are missing, it does not answer, it does not know the partition, or it can never run a
            task with these settings.
    """
    if lacking := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise ConfigError(
            f"runs_on.executor is slurm, but this machine has no {', '.join(lacking)}. Start xdc on a machine of the "
            "cluster from which jobs are submitted, or set runs_on.executor to local."
        )
    check_partition(settings.partition)
    check_options(resources(settings, runs_on.device != "cpu"))


def _make(settings: SlurmSettings, runs_on: RunsOn) -> Slurm:
    return Slurm(settings)


@contextmanager
def _sigterm_raised(name: str) -> Iterator[None]:
    """Raise StageError on SIGTERM while active, so that tasks are cancelled. Outside the main thread do nothing."""

    def stop(number: int, _: object) -> None:
        raise StageError(f"SIGTERM ended {name}. What is finished is kept: run it again.")

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


SLURM = ExecutorKind("slurm", SlurmSettings, _check, _make)
