"""The workers of one stage on a Ray cluster: how many there are, what each does, and which of them are lost."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flows.executors.queue import Pace, Queue
from flows.executors.ray.cluster import end_actors
from flows.executors.ray.worker import Place, RayWorker
from shards.log_level import VARIABLE
from shards.store.executor import Job, Unit
from shards.store.receipt import Receipt
from shards.workers.worker import WorkerError

OPTIONS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}  # Ray's options of an actor, by resource.
POLL_S = 1.0  # Seconds between two looks at how much room the cluster has.


@dataclass
class Worker:
    """An actor. place: where it runs, once it has begun. units: what it does; none while it begins."""

    actor: Any
    place: Place | None = None
    units: list[Unit] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True)
class Answer:
    """What came of a call. units: what the worker was to do; none if it was to begin. result: what it returned.

    lost: why there is no result, in Ray's words.
    """

    units: list[Unit]
    place: Place | None
    result: Place | list[Receipt] | WorkerError | None
    lost: str = ""


@dataclass
class Workers:
    """Actors of one kind on one cluster, as many as it has room for, at most `most`.

    ray: the module. needs: of a worker, by Ray's names of resources: CPU, GPU, memory. failed_starts: how often in a
    row workers were started and none of them has begun, and no unit was done meanwhile.
    """

    ray: Any
    needs: Mapping[str, float]
    most: int | None
    idle: list[Worker] = field(default_factory=list)
    failed_starts: int = 0
    _called: dict[Any, Worker] = field(default_factory=dict)  # By Ray's reference to the answer.
    _job: Any = None
    _logs: set[str] = field(default_factory=set)

    def begin(self, job: Job) -> None:
        """Take over a job: idle workers of an earlier one begin with it, too."""
        self._job, self.failed_starts = self.ray.put(json.dumps(asdict(job))), 0
        workers, self.idle = self.idle, []
        for worker in workers:
            self._begin(worker)

    def _begin(self, worker: Worker) -> None:
        cores = max(1, int(self.needs["CPU"]))
        self._called[worker.actor.begin.remote(self._job, cores, os.environ.get(VARIABLE))] = worker

    @property
    def busy(self) -> bool:
        """Return whether a worker does a unit."""
        return any(worker.units for worker in self._called.values())

    @property
    def starting(self) -> int:
        """Return how many workers have not begun: the cluster has no room for them yet, or they import."""
        return sum(not worker.units for worker in self._called.values())

    @property
    def present(self) -> bool:
        """Return whether a worker has begun and is not lost."""
        return any(worker.place for worker in [*self.idle, *self._called.values()])

    def grow(self, queue: Queue, tries: int) -> None:
        """Start workers for units that wait, if none is starting: as many as there is room for, at least one.

        While others work, no more are started after `tries` failed starts, until a unit is done. The one for which
        there is no room starts when a node joins, and tells an autoscaler that one is needed.
        """
        if self.starting or (self.failed_starts >= tries and self.present):
            return
        present = len(self.idle) + len(self._called)
        wanted = max(1, self._room())
        wanted = wanted if self.most is None else min(wanted, self.most - present)
        for _ in range(min(wanted, queue.look_ahead() - len(self.idle))):
            options = {OPTIONS[name]: amount for name, amount in self.needs.items()}
            actor = self.ray.remote(RayWorker).options(**options, max_restarts=0, max_task_retries=0).remote()
            self._begin(Worker(actor))

    def _room(self) -> int:
        """Return for how many workers the cluster has free resources, if they lay on one node: never too few."""
        free = self.ray.available_resources()
        return min(int(free.get(name, 0) // amount) for name, amount in self.needs.items() if amount)

    def give(self, queue: Queue) -> None:
        """Give units to each idle worker, while there are some of both."""
        queue.workers = max(1, len(self.idle) + len(self._called))
        while self.idle and queue.look_ahead():
            worker = self.idle.pop()
            worker.units = queue.take(worker.pace.at_once)
            worker.pace.begin()
            self._called[worker.actor.do.remote(worker.units)] = worker

    def answers(self) -> list[Answer]:
        """Wait up to `POLL_S` for an answer, and return it. A worker that answers well is idle, another one dropped."""
        answered, _ = self.ray.wait(list(self._called), num_returns=1, timeout=POLL_S)
        return [self._answer(reference) for reference in answered]

    def _answer(self, reference: Any) -> Answer:
        worker = self._called.pop(reference)
        units, worker.units, lost = worker.units, [], ""
        try:
            result = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            result, lost = None, " ".join(str(error).split())
        if isinstance(result, Place | list):
            self.failed_starts = 0
            worker.pace.end(len(units))
            self.idle.append(worker)
        else:
            # An error of CUDA, for example, would spoil all that this process does next.
            end_actors(self.ray, [worker.actor])
            # A lost node takes all with it that start there: they count as one.
            self.failed_starts += not (units or self.starting)
        if isinstance(result, Place):
            worker.place = result
            self._logs.add(result.log)
        return Answer(units, worker.place, result, lost)

    def release(self) -> None:
        """End the workers that are idle: others get their room."""
        end_actors(self.ray, [worker.actor for worker in self.idle])
        self.idle.clear()

    def end(self, keep: bool) -> None:
        """Leave the job: end workers that have not begun, and the idle ones unless they are to be kept for the next.

        Logs in which nothing is are removed.
        """
        end_actors(self.ray, [worker.actor for worker in self._called.values()])
        self._called.clear()
        if not keep:
            self.release()
        for log in self._logs:
            with suppress(FileNotFoundError):
                if not Path(log).stat().st_size:
                    Path(log).unlink()
        self._logs.clear()

    def kill(self) -> None:
        """End all workers at once."""
        end_actors(self.ray, [worker.actor for worker in [*self.idle, *self._called.values()]])
        self.idle.clear()
        self._called.clear()
