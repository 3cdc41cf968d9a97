"""The workers of one stage on a Ray cluster: how many there are, what each does, and which of them are lost."""

import json
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from flows.executors.ray_worker import Place, RayWorker
from shards.store.executor import Job, Unit
from shards.store.receipt import Receipt
from shards.workers.worker import WorkerError

POLL_S = 1.0  # Seconds between two looks at how much room the cluster has.


@dataclass
class Attempt:
    """A unit, and how many workers have been lost, or have failed, with it."""

    unit: Unit
    failed: int = 0


class Attempts:
    """The units that are still to be given to a worker: those that come back first, then the next of the stage."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self._next: deque[Attempt] = deque()
        self._units = iter(units)

    def waiting(self, most: int) -> int:
        """Return how many units wait, counted up to `most`. The others are not made yet: there may be millions."""
        self._next.extend(Attempt(unit) for unit in islice(self._units, max(0, most - len(self._next))))
        return min(most, len(self._next))

    def take(self) -> Attempt:
        """Return the next unit. There must be one: see `waiting`."""
        return self._next.popleft()

    def put_back(self, attempt: Attempt) -> None:
        """Have a unit done next."""
        self._next.appendleft(attempt)


@dataclass
class Worker:
    """An actor. place: where it runs, once it has begun. attempt: what it does; None while it begins."""

    actor: Any
    place: Place | None = None
    attempt: Attempt | None = None


@dataclass
class Answer:
    """What came of a call. result: what the worker returned; text: why it is lost, if it returned nothing."""

    worker: Worker
    attempt: Attempt | None
    result: Place | list[Receipt] | WorkerError | None
    text: str = ""


@dataclass
class Workers:
    """Actors of one kind on one cluster, as many as it has room for, at most `most`.

    ray: the module. needs: Ray's options of an actor: num_cpus, num_gpus, memory.
    """

    ray: Any
    needs: Mapping[str, float]
    most: int | None
    idle: list[Worker] = field(default_factory=list)
    _called: dict[Any, Worker] = field(default_factory=dict)  # By Ray's reference to the answer.
    _job: Any = None
    _logs: set[str] = field(default_factory=set)

    def begin(self, job: Job) -> None:
        """Take over a job: idle workers of an earlier one begin with it, too."""
        self._job = self.ray.put(json.dumps(asdict(job)))
        workers, self.idle = self.idle, []
        for worker in workers:
            self._begin(worker)

    def _begin(self, worker: Worker) -> None:
        cores = max(1, int(self.needs["num_cpus"]))
        self._called[worker.actor.begin.remote(self._job, cores)] = worker

    @property
    def busy(self) -> bool:
        """Return whether a worker does a unit."""
        return any(worker.attempt for worker in self._called.values())

    @property
    def starting(self) -> int:
        """Return how many workers have not begun: the cluster has no room for them yet, or they import."""
        return sum(worker.attempt is None for worker in self._called.values())

    def grow(self, attempts: Attempts) -> None:
        """Start workers for units that wait, if none is starting: as many as there is room for, at least one.

        The one for which there is no room starts when a node joins, and tells an autoscaler that one is needed.
        """
        if self.starting:
            return
        present = len(self.idle) + len(self._called)
        wanted = max(1, self._room())
        wanted = wanted if self.most is None else min(wanted, self.most - present)
        for _ in range(min(wanted, attempts.waiting(wanted + len(self.idle)) - len(self.idle))):
            actor = self.ray.remote(RayWorker).options(**self.needs, max_restarts=0, max_task_retries=0).remote()
            self._begin(Worker(actor))

    def _room(self) -> int:
        """Return for how many workers the cluster has free resources, if they lay on one node: never too few."""
        names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        free = self.ray.available_resources()
        return min(int(free.get(names[name], 0) // amount) for name, amount in self.needs.items() if amount)

    def give(self, attempts: Attempts) -> None:
        """Give a unit to each idle worker, while there are some of both."""
        while self.idle and attempts.waiting(1):
            worker = self.idle.pop()
            worker.attempt = attempts.take()
            unit = worker.attempt.unit
            self._called[worker.actor.do.remote(unit.number, unit.shards)] = worker

    def answers(self) -> list[Answer]:
        """Wait up to `POLL_S` for an answer, and return it. A worker that answers well is idle, another one dropped."""
        answered, _ = self.ray.wait(list(self._called), num_returns=1, timeout=POLL_S)
        return [self._answer(reference) for reference in answered]

    def _answer(self, reference: Any) -> Answer:
        worker = self._called.pop(reference)
        attempt, worker.attempt = worker.attempt, None
        try:
            result = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self.ray.kill(worker.actor)
            return Answer(worker, attempt, None, " ".join(str(error).split()))
        if isinstance(result, WorkerError):
            self.ray.kill(worker.actor)  # An error of CUDA, for example, would spoil all that this process does next.
        else:
            self.idle.append(worker)
        if isinstance(result, Place):
            worker.place = result
            self._logs.add(result.log)
        return Answer(worker, attempt, result)

    def end(self) -> None:
        """Leave the job: end workers that have not begun, keep the idle ones. Remove logs in which nothing is."""
        for reference, worker in list(self._called.items()):
            self.ray.kill(worker.actor)
            del self._called[reference]
        for log in self._logs:
            with suppress(FileNotFoundError):
                if not Path(log).stat().st_size:
                    Path(log).unlink()
        self._logs.clear()

    def kill(self) -> None:
        """End all workers at once."""
        for worker in [*self.idle, *self._called.values()]:
            self.ray.kill(worker.actor)
        self.idle.clear()
        self._called.clear()
