"""The executor `slurm`: units as tasks of job arrays, on machines that share the disk of the run.

Nothing is needed but Slurm's command-line tools. A task of an array is one process that imports the work once and does
many units. The stage finds out from the receipts on the shared disk what is done. When an array has ended, what has no
receipt is submitted again. Slurm itself repeats nothing (`--no-requeue`): it would wait two minutes, and then repeat
units that are done.

The folder `.units/slurm` in a stage's partial directory has, for each array, a file with a line of unit numbers for
each task. Its name is that of the job, so that a stage that continues can cancel what an earlier, killed one submitted.
"""

import re
import shlex
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pydantic import Field

from flows.executors.kind import ExecutorKind
from flows.executors.slurm_tools import (
    TOOLS,
    NoAnswer,
    cancel,
    check_options,
    check_partition,
    failure,
    largest_array,
    states,
    submit,
)
from shards.errors import ConfigError, StageError
from shards.section import Section
from shards.store.executor import Advance, Job, Unit
from shards.store.files import new_file
from shards.store.receipt import UNITS, Receipt, read_receipt, stored_shards
from shards.workers.job_file import read_units, write_job
from shards.workers.worker import noted_errors
from xdc_core.config.schema import RunsOn

ARRAYS = "slurm"
# Seconds between two looks at the receipts, and between two questions to Slurm: the first and the longest.
LOOK_S, LONGEST_LOOK_S = 0.2, 5.0
ASK_S, LONGEST_ASK_S = 2.0, 30.0
PATIENCE_S = 3600.0  # Seconds without an answer of Slurm and without a receipt, after which the stage gives up.


class SlurmSettings(Section):
    """The executor_settings of the executor `slurm`."""

    partition: str | None = Field(None, description="partition, or several with commas; null: the cluster's default")
    time: str | None = Field(None, description="time limit of a task, as in sbatch; null: the partition's default")
    cpus: int = Field(4, ge=1, description="processor cores of a task")
    gpus: int = Field(1, ge=0, description="GPUs of a task whose stage can use one")
    memory: str | None = Field(None, description="memory of a task, for example 16G; null: the cluster's default")
    options: tuple[str, ...] = Field((), description="further options of sbatch, for example [--account=lab]")
    setup: tuple[str, ...] = Field(
        (), description="lines of shell before Python starts, for example [module load cuda]"
    )
    python: str | None = Field(None, description="Python on the nodes; null: the path of the one that runs the stage")
    tasks: int = Field(16, ge=1, description="tasks that run at the same time")
    units_per_task: int = Field(30, ge=1, description="units that a task does, unless there are too few for all tasks")
    array: int = Field(1000, ge=1, description="tasks of one array; never more than the cluster's MaxArraySize")
    tries: int = Field(3, ge=1, description="arrays in a row that store nothing before the stage fails")
    grace: int = Field(
        60, ge=0, description="seconds before the time limit at which a task finishes its shard and ends"
    )


@dataclass(frozen=True)
class Array:
    """A submitted job array. name: the job's; number: Slurm's."""

    name: str
    number: str


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
            array = self._submit(job, path, sorted(set(missing.values())), most)
            try:
                ended = _follow(array, job, missing, received)
            except BaseException:
                _cancel(array.name)
                raise
            if not ended:
                _cancel(array.name)  # Everything is stored: what still waits has nothing to do.
            fruitless = fruitless + 1 if len(missing) == before else 0
            if missing and fruitless >= self.settings.tries:
                raise _gave_up(job, array, missing, fruitless)

    def _submit(self, job: Job, path: Path, lines: list[int], most: int) -> Array:
        """Submit an array that does the units on these lines of units.jsonl."""
        tasks = list(shares(lines, self.settings, most))
        name = f"xdc-{re.sub(r'[^A-Za-z0-9.]+', '-', job.name)}-{uuid.uuid4().hex[:12]}"
        listed = path.with_name(ARRAYS) / name
        with new_file(listed) as temporary:
            temporary.write_text("".join(" ".join(map(str, task)) + "\n" for task in tasks), encoding="utf-8")
        options = [
            f"--job-name={name}",
            f"--array=0-{len(tasks) - 1}%{self.settings.tasks}",
            f"--output={_log(job, '%A', '%a')}",
            "--no-requeue",
            f"--signal=B:TERM@{self.settings.grace}",
            *self.resources(job.gpu),
        ]
        return Array(name, submit(options, self._script(job, path, listed)))

    def resources(self, gpu: bool) -> list[str]:
        """Return the options for what a task needs."""
        settings = self.settings
        given = {"--partition": settings.partition, "--time": settings.time, "--mem": settings.memory}
        options = [f"{name}={value}" for name, value in given.items() if value is not None]
        options.append(f"--cpus-per-task={settings.cpus}")
        if gpu and settings.gpus:
            options.append(f"--gres=gpu:{settings.gpus}")
        return [*options, *settings.options]

    def _script(self, job: Job, path: Path, listed: Path) -> str:
        python = self.settings.python or sys.executable
        # As `_log`, for the task itself.
        log = f'{shlex.quote(job.logs)}/slurm-"${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}".log'
        lines = [
            "#!/bin/sh",
            *self.settings.setup,
            f'units=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(listed))})',
            'if [ -z "$units" ]; then echo "The stage is finished, or was continued by another process."; exit 1; fi',
            f"export XDC_UNIT_LOG={log}",
            f"exec {shlex.quote(python)} -m xdc_core unit {shlex.quote(str(path))} $units",
        ]
        return "\n".join(lines) + "\n"


def shares(lines: list[int], settings: SlurmSettings, most: int) -> Iterator[list[int]]:
    """Yield the numbers of the units of each task of an array that has at most `most` tasks."""
    for_all_tasks = -(-len(lines) // settings.tasks)
    count = max(min(settings.units_per_task, for_all_tasks), -(-len(lines) // most))
    for first in range(0, len(lines), count):
        yield lines[first : first + count]


def _follow(array: Array, job: Job, missing: dict[str, int], received: Callable[[Receipt], None]) -> bool:
    """Take receipts out of `missing` as they come; return when the array has ended (True) or nothing is missing.

    Raises:
        StageError, ConfigError: a worker raised what another try would raise, too; or Slurm has not answered for long.
    """
    out = Path(job.out)
    look, ask, said = LOOK_S, ASK_S, ""
    heard = asked = time.monotonic()
    ended = False
    while True:
        begun = time.monotonic()
        # After the end each is opened by its name: a listing of a network file system may be some seconds old.
        new = list(missing) if ended else [shard for shard in stored_shards(out) if shard in missing]
        listing = time.monotonic() - begun
        for shard in new:
            if (receipt := read_receipt(out, shard)) is not None:
                del missing[shard]
                received(receipt)
                heard = begun
        for error in noted_errors(out):
            if error.final:
                raise error.raised(job.name)
        if ended or not missing:
            return ended
        if begun - asked > ask:
            asked, ask = begun, min(1.5 * ask, LONGEST_ASK_S)
            try:
                active = states(array.number)
                ended, heard = not active, begun
                saying = ", ".join(f"{count} {state}" for state, count in active.items())
            except NoAnswer as error:
                saying = f"no answer ({error})"
                if begun - heard > PATIENCE_S:
                    raise StageError(f"{job.name}: Slurm does not answer: {error}. Run this again.") from error
            if saying != said:
                said = saying
                print(f"Slurm job {array.number}, {array.name}: {saying or 'ended'}", file=sys.stderr, flush=True)
        if not ended:
            # A folder of many receipts on a network file system is slow to list.
            time.sleep(max(look, min(10 * listing, LONGEST_ASK_S)))
        look = min(1.3 * look, LONGEST_LOOK_S)


def _gave_up(job: Job, array: Array, missing: dict[str, int], fruitless: int) -> StageError | ConfigError:
    """Return the error for units that were tried too often."""
    if noted := noted_errors(Path(job.out)):
        error = noted[-1].raised(job.name)
        assert isinstance(error, StageError | ConfigError)
        return error
    text = (
        f"{job.name}: {fruitless} Slurm {'arrays' if fruitless > 1 else 'array'} in a row stored nothing; "
        f"{len(missing)} shards are missing ({min(missing)} first). "
    )
    failed = failure(array.number)
    if failed is None:
        return StageError(f"{text}The output of the tasks is in {_log(job, array.number, '*')}.")
    log = Path(_log(job, array.number, failed.task))
    said = ""
    with suppress(OSError):
        said = "".join(log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[-5:])
    return StageError(
        f"{text}Task {failed.task} of job {array.number}: {failed}. {f'The end of {log}:' if said else f'See {log}.'}"
        f"{f'{chr(10)}{said}' if said else ''}"
    )


def _log(job: Job, number: str, task: str) -> str:
    """Return the output file of a task."""
    return f"{job.logs}/slurm-{number}_{task}.log"


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
    check_options(Slurm(settings).resources(runs_on.device != "cpu"))


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
