"""The executor `ray`: units on the machines of a Ray cluster, which share the disk of the run.

It needs `pip install 'xdc[ray]'`. xdc starts no cluster: it joins one, by its address. Nothing of the work goes through
Ray but units and receipts. When this process ends, however it ends, Ray ends its workers.
"""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydantic import Field

from flows.executors.kind import ExecutorKind
from flows.executors.queue import AHEAD, Queue, unfinished
from flows.executors.ray.agents import RayAgents, start_agents
from flows.executors.ray.cluster import address_of, check_cluster, connect, large_nodes
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
        None, ge=0, description="GPUs of a worker; null: 1 for work on GPUs, if the cluster has some, else 0"
    )
    memory_gb: Positive | None = Field(None, description="memory that a worker reserves; null: none")
    workers: int | None = Field(None, ge=1, description="most workers of a stage; null: as many as there is room for")
    tries: int = Field(3, ge=1, description="workers that may be lost, or fail, with one unit")
    wait_s: Positive = Field(
        600.0, description="seconds to wait for a node that is large enough for a worker, as with an autoscaler"
    )


class RayExecutor:
    """The executor of one stage. It keeps its workers from one job to the next, and ends them with itself.

    ahead: see `Queue`.
    """

    def __init__(self, settings: RaySettings, ahead: int = AHEAD) -> None:
        self._settings, self.ahead = settings, ahead
        self._kept: dict[tuple[str, bool], Workers] = {}

    def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
        """Do the units, as described in `Executor`."""
        workers, queue = self._workers(job), Queue(units, ahead=self.ahead)
        failed_starts, seen = 0, time.monotonic()
        try:
            workers.begin(job)
            while queue.look_ahead() or workers.busy:
                workers.give(queue)
                workers.grow(queue)
                for answer in workers.answers():
                    seen = time.monotonic()
                    if answer.units:
                        self._take(job, answer, queue, received)
                        continue
                    if isinstance(answer.result, WorkerError):
                        raise answer.result.raised(job.name)
                    failed_starts = 0 if answer.result else failed_starts + 1
                    if failed_starts == self._settings.tries:
                        raise StageError(f"{job.name}: no worker starts on the Ray cluster. Ray says: {answer.lost}")
                if not workers.busy and time.monotonic() - seen > self._settings.wait_s:
                    self._check_room(job, workers)
                    seen = time.monotonic()
            workers.end()
        except workers.ray.exceptions.RayError as error:
            raise StageError(
                f"{job.name}: the Ray cluster does not answer any more. What is finished is kept: run this again when "
                f"it does. Ray says: {' '.join(str(error).split())}"
            ) from error
        except BaseException:
            workers.kill()
            raise

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
            gpus = self._settings.gpus
            if gpus is None:
                gpus = 1 if job.gpu and ray.cluster_resources().get("GPU") else 0
            needs: dict[str, float] = {"CPU": self._settings.cpus, "GPU": gpus}
            if self._settings.memory_gb is not None:
                needs["memory"] = self._settings.memory_gb * 1e9
            self._kept[kind] = Workers(ray, needs, self._settings.workers)
        return self._kept[kind]

    def _check_room(self, job: Job, workers: Workers) -> None:
        """Raise StageError if no node is large enough for a worker; occupied ones are waited for."""
        large, all_nodes = large_nodes(workers.ray, workers.needs)
        needs = f"{workers.needs['CPU']:g} CPUs and {workers.needs['GPU']:g} GPUs"
        if not large:
            raise StageError(
                f"{job.name}: for {self._settings.wait_s:g} s no node of the Ray cluster has been large enough for a "
                f"worker with {needs}. There are: {all_nodes}. Lower cpus or gpus of runs_on.executor_settings, or add "
                "nodes; then run this again."
            )
        print(f"{job.name}: waiting until a node of the Ray cluster has {needs} free", file=sys.stderr, flush=True)

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
        return start_agents(ray, command, machines, processes, gpu, log, self._settings.wait_s)


def _check(settings: RaySettings, runs_on: RunsOn) -> None:
    """Raise ConfigError if Ray is not installed, no cluster answers, or it has other versions."""
    check_cluster(address_of(settings.address))


def _make(settings: RaySettings, runs_on: RunsOn) -> Executor:
    return RayExecutor(settings)


RAY = ExecutorKind("ray", RaySettings, _check, _make)
