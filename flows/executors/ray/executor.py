"""The executor `ray`: units on the machines of a Ray cluster, which share the disk of the run.

It needs `pip install 'xdc-pipeline[ray]'`. xdc starts no cluster: it joins one, by its address. Nothing of the work
goes through Ray but units and receipts. When this process ends, however it ends, Ray ends its workers.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from pydantic import Field

from flows.executors.kind import ExecutorKind
from flows.executors.queue import AHEAD, Queue, unfinished
from flows.executors.ray.agents import RayAgents, start_agents
from flows.executors.ray.cluster import address_of, check_cluster, connect, lost_cluster_explained
from flows.executors.ray.room import Wait, gpus_of_process
from flows.executors.ray.worker import Place
from flows.executors.ray.workers import Answer, Workers
from shards.errors import StageError
from shards.section import Positive, Section
from shards.store.executor import Advance, Executor, Job, Unit
from shards.store.receipt import Receipt
from shards.workers.worker import WorkerError
from xdc_core.config.schema import RunsOn


class RaySettings(Section):
    """What the executor needs to know of a cluster, and what a worker needs of it."""

    address: str | None = Field(
        None, description="HOST:PORT or auto on a machine of the cluster, ray://HOST:PORT elsewhere; null: RAY_ADDRESS"
    )
    cpus: int = Field(1, ge=1, description="cores of a worker, which are its threads unless runs_on.threads is set")
    gpus: float | None = Field(
        None,
        ge=0,
        description="GPUs of a worker for work on GPUs; null: 1 if runs_on.device is cuda, or if it is auto and the "
        "cluster has GPUs at the moment, else 0. Set 1 where an autoscaler starts the nodes with GPUs",
    )
    memory_gb: Positive | None = Field(None, description="memory that a worker reserves; null: none")
    workers: int | None = Field(None, ge=1, description="most workers of a stage; null: as many as there is room for")
    tries: int = Field(3, ge=1, description="workers that may be lost, or fail, with one unit")
    wait_s: Positive = Field(
        600.0, description="seconds to wait for nodes that are large enough, as with an autoscaler"
    )


class RayExecutor:
    """The executor of one stage. It keeps its workers for a next job that follows at once, and ends them with itself.

    device: as in `RunsOn`. ahead: see `Queue`.
    """

    def __init__(self, settings: RaySettings, device: str, ahead: int = AHEAD) -> None:
        self._settings, self._device, self.ahead = settings, device, ahead
        self._kept: dict[tuple[str, bool], Workers] = {}

    def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
        """Do the units, as described in `Executor`."""
        with lost_cluster_explained(job.name):
            workers = self._workers(job)
            try:
                self._do(job, workers, Queue(units, ahead=self.ahead), received, advance)
                workers.end(keep=job.more)
            except BaseException:
                workers.kill()
                raise

    def _do(
        self, job: Job, workers: Workers, queue: Queue, received: Callable[[Receipt], None], advance: Advance
    ) -> None:
        what = f"a worker for {job.name}"
        advice = "Lower cpus or gpus of runs_on.executor_settings, or add nodes; then run this again."
        wait = Wait(workers.ray, what, workers.needs, 1, self._settings.wait_s, advice, partial(advance, 0, 0))
        workers.begin(job)
        while queue.look_ahead() or workers.busy:
            workers.give(queue)
            workers.grow(queue, self._settings.tries)
            if not (queue.look_ahead() or job.more):
                workers.release()
            answers = workers.answers()
            for answer in answers:
                if answer.units:
                    self._take(job, answer, queue, received)
                elif not isinstance(answer.result, Place):
                    self._check_start(job, answer, workers)
            if answers or workers.present:
                wait.end()
            else:
                wait.look()

    def _check_start(self, job: Job, answer: Answer, workers: Workers) -> None:
        """Raise StageError, ConfigError if a worker has not begun, and another one would not either."""
        error = answer.result if isinstance(answer.result, WorkerError) else None
        if error is not None and error.final:
            raise error.raised(job.name)
        if workers.failed_starts >= self._settings.tries and not workers.present:
            if error is not None:
                raise error.raised(job.name)
            raise StageError(f"{job.name}: no worker starts on the Ray cluster. Ray says: {answer.lost}")
        why = error.text if error is not None else answer.lost
        print(f"{job.name}: a worker has not started: {why}", file=sys.stderr, flush=True)

    def _take(self, job: Job, answer: Answer, queue: Queue, received: Callable[[Receipt], None]) -> None:
        """Take the receipts of units, and put back what is not done. Raises StageError, ConfigError."""
        error = answer.result if isinstance(answer.result, WorkerError) else None
        if error is not None and error.final:
            raise error.raised(job.name)
        receipts = answer.result if isinstance(answer.result, list) else []
        for receipt in receipts:
            received(receipt)
        lost = list(unfinished(job, answer.units, {receipt.shard for receipt in receipts}, received))
        if not lost:
            return
        if isinstance(answer.result, list):
            raise StageError(f"{job.name}: a worker has left out shards. This is a defect of xdc.")
        tries, shards = queue.put_back(lost), ", ".join(lost[0].shards)
        if tries >= self._settings.tries:
            if error is not None:
                raise error.raised(job.name)
            place = answer.place
            where = f"on {place.host}; its output is in {place.log}" if place else "before it began"
            raise StageError(
                f"{job.name}: {tries} workers were lost with {shards}, the last one {where}. Ray says: {answer.lost} "
                "What is finished is kept: run this again."
            )
        why = error.text if error is not None else answer.lost
        print(f"{job.name}: {shards} is done again by another worker: {why}", file=sys.stderr, flush=True)

    def _workers(self, job: Job) -> Workers:
        """Return the workers for a job: those of an earlier one that had the same needs, if there was one."""
        kind = (job.library, job.gpu)
        if kind not in self._kept:
            for others in self._kept.values():
                others.kill()  # They would take the room of these.
            self._kept.clear()
            ray = connect(address_of(self._settings.address))
            needs: dict[str, float] = {
                "CPU": self._settings.cpus,
                "GPU": gpus_of_process(ray, self._settings.gpus, self._device) if job.gpu else 0,
            }
            if self._settings.memory_gb is not None:
                needs["memory"] = self._settings.memory_gb * 1e9
            self._kept[kind] = Workers(ray, needs, self._settings.workers)
        return self._kept[kind]

    def start_agents(
        self,
        command: Sequence[str],
        machines: int,
        processes: int,
        gpu: bool,
        log: Path,
        waiting: Callable[[str], None] = lambda text: None,
    ) -> RayAgents:
        """Start an agent of a training on each of `machines` nodes, as described in `xdc_core.ranks.launcher`."""
        ray = connect(address_of(self._settings.address))
        gpu = gpu and gpus_of_process(ray, self._settings.gpus, self._device) > 0
        with lost_cluster_explained("the training's agents"):
            return start_agents(ray, command, machines, processes, gpu, log, self._settings.wait_s, waiting)


def _check(settings: RaySettings, runs_on: RunsOn) -> None:
    """Raise ConfigError if Ray is not installed, no cluster answers, or it has other versions."""
    check_cluster(address_of(settings.address))


def _make(settings: RaySettings, runs_on: RunsOn) -> Executor:
    return RayExecutor(settings, runs_on.device)


RAY = ExecutorKind("ray", RaySettings, _check, _make)
