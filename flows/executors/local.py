"""The executor for one machine: all units in the stage's own process, or in several processes of this machine.

There are several where the configuration says so, and for work on GPUs if the machine has more than one: a worker per
GPU. Two stages that are in progress at the same time have a worker on each GPU each, and so share all of them. With
several GPUs this has not been run yet: tests give its workers GPUs that are none.
"""

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from pydantic import Field

from flows.executors.forker import Forked, Forker
from flows.executors.kind import ExecutorKind
from flows.executors.local_worker import find_all_gpus, gpus_listed, visible_gpu, work
from flows.executors.process_output import how_ended, last_error
from flows.executors.queue import Pace, Queue, unfinished
from shards.cores import GRANTED, THREADS, core_count
from shards.errors import StageError
from shards.section import Section
from shards.store.executor import IN_PROCESS, Advance, Executor, Job, Unit
from shards.store.receipt import Receipt
from shards.workers.worker import WorkerError
from xdc_core.compute.threads import thread_count
from xdc_core.config.schema import RunsOn

TRIES = 3  # Workers that may die or fail with one unit.


class LocalSettings(Section):
    """The executor_settings of the executor `local`."""

    workers: int | None = Field(
        None,
        ge=1,
        description="processes that do a stage's units, each with its part of the cores (runs_on.threads and "
        "corpus.workers are those of each); null: one per GPU, or only the stage's own process",
    )


@dataclass(eq=False)
class Worker:
    """A worker, and the units that it has been given."""

    forked: Forked
    slot: int
    log: Path
    logged: int
    units: list[Unit] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)
    error: WorkerError | None = None
    pace: Pace = field(default_factory=Pace)

    def give(self, units: list[Unit]) -> None:
        """Have it do units."""
        self.units, self.stored = units, set()
        self.pace.begin()
        try:
            self.forked.channel.send(units)
        except OSError:
            return  # It has died; the forker says so.

    def finish(self) -> None:
        """Take back what it was given, and set how much it gets next."""
        self.pace.end(len(self.units))
        self.units = []


class LocalWorkers:
    """The executor with several processes, for one stage."""

    def __init__(self, workers: int | None, runs_on: RunsOn) -> None:
        self._workers, self._runs_on = workers, runs_on
        self.forker = Forker()

    def in_process(self, gpu: bool) -> bool:
        """Return whether a job is certainly done in this process: it uses no GPU, and several workers are not set."""
        return not gpu and (self._workers or 1) == 1

    def close(self) -> None:
        """End the processes. They also end with the process of the stage."""
        self.forker.close()

    def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
        """Do the units, as described in `Executor`."""
        gpus = self._gpus() if job.gpu else []
        count = self._workers or len(gpus)
        if count <= 1:
            IN_PROCESS.run(job, units, received, advance)
            return
        environments = [
            {
                # Cutting uses all cores of the machine, computing the part of one stage of several.
                GRANTED: str(max(1, core_count() // count)),
                THREADS: str(max(1, thread_count(self._runs_on) // count)),
            }
            | ({"CUDA_VISIBLE_DEVICES": visible_gpu(gpus[slot % len(gpus)])} if gpus else {})
            for slot in range(count)
        ]
        queue, workers = Queue(units, count), dict[int, Worker]()
        try:
            while True:
                for slot in range(count):
                    worker = workers.get(slot)
                    if (worker is None or not worker.units) and (
                        taken := queue.take(worker.pace.at_once if worker else 1)
                    ):
                        if worker is None:
                            worker = workers[slot] = self._started(job, slot, environments[slot])
                        worker.give(taken)
                busy = [worker for worker in workers.values() if worker.units]
                if not busy:
                    return
                wait([self.forker.control, *(worker.forked.channel for worker in busy)])
                died = dict(self.forker.ended())  # Asked before the messages: what the dead have sent is all there.
                for worker in busy:
                    self._listen(job, worker, received)
                for slot, worker in list(workers.items()):
                    if worker.forked.process in died:
                        del workers[slot]
                        worker.forked.channel.close()
                        self._replace(job, worker, died[worker.forked.process], queue, received)
        finally:
            self.forker.kill()
            for worker in workers.values():
                worker.forked.channel.close()

    def _gpus(self) -> list[int]:
        """Return the numbers of the working GPUs; [] if there can be only one and one worker."""
        if gpus_listed() <= (0 if self._workers else 1):
            return []
        forked = self.forker.start(find_all_gpus)
        try:
            working, refused = forked.channel.recv()
        except EOFError:  # CUDA has ended the process. The worker that meets this reports it.
            return []
        finally:
            forked.channel.close()
        for why in refused:
            print(f"warning: {why}", file=sys.stderr, flush=True)
        return list(working)

    def _started(self, job: Job, slot: int, environment: dict[str, str]) -> Worker:
        log = Path(job.logs) / f"{re.sub(r'[^A-Za-z0-9.]+', '-', job.name)}.worker-{slot}.log"
        logged = log.stat().st_size if log.exists() else 0
        return Worker(self.forker.start(work, job, str(log), environment), slot, log, logged)

    def _listen(self, job: Job, worker: Worker, received: Callable[[Receipt], None]) -> None:
        """Take what a worker has sent. Raises StageError, ConfigError: an error that another try would raise, too."""
        try:
            while worker.units and worker.forked.channel.poll():
                message = worker.forked.channel.recv()
                if isinstance(message, Receipt):
                    worker.stored.add(message.shard)
                    received(message)
                elif isinstance(message, WorkerError):
                    worker.error = message
                    if message.final:
                        raise message.raised(job.name)
                else:
                    for _ in unfinished(job, worker.units, worker.stored, received):
                        raise StageError(f"{job.name}: a worker has left out shards. This is a defect of xdc.")
                    worker.finish()
        except (EOFError, ConnectionError):
            return  # The forker says how it ended.

    def _replace(self, job: Job, worker: Worker, code: int, queue: Queue, received: Callable[[Receipt], None]) -> None:
        """Put back the units of a worker that has ended. Raises StageError: the first of them was tried too often."""
        if not (lost := list(unfinished(job, worker.units, worker.stored, received))):
            return
        tries = queue.put_back(lost)
        if tries >= TRIES and worker.error is not None:
            raise worker.error.raised(job.name)
        last = last_error(_logged(worker))
        how = f"{how_ended(code)}{f'. Its last output: {last}' if last else ''}; see {worker.log}"
        if tries >= TRIES:
            raise StageError(
                f"{job.name}: {tries} workers died with {', '.join(lost[0].shards)}. The last one {how}, and run again."
            )
        print(f"warning: {job.name}: a worker {how}. Others do its {len(lost)} units.", file=sys.stderr, flush=True)


def _logged(worker: Worker) -> str:
    """Return what a worker has written into its log."""
    try:
        with worker.log.open("rb") as file:
            file.seek(worker.logged)
            return file.read()[-65536:].decode("utf-8", "replace")
    except OSError:
        return ""


def _check(settings: LocalSettings, runs_on: RunsOn) -> None:
    """Do nothing: this machine is there."""


def _make(settings: LocalSettings, runs_on: RunsOn) -> Executor:
    several_gpus = runs_on.device != "cpu" and gpus_listed() > 1
    if (settings.workers or 1) > 1 or (settings.workers is None and several_gpus):
        return LocalWorkers(settings.workers, runs_on)
    return IN_PROCESS


LOCAL = ExecutorKind("local", LocalSettings, _check, _make, several_machines=False)
