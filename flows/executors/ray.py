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
from flows.executors.ray_agents import RayAgents, start_agents
from flows.executors.ray_cluster import address_of, check_cluster, connect
from flows.executors.ray_workers import Answer, Attempt, Attempts, Workers
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
    wait_s: Positive = Field(600.0, description="seconds in which the cluster must have room for a worker")


class RayExecutor:
    """The executor of one stage. It keeps its workers from one job to the next, and ends them with itself."""

    def __init__(self, settings: RaySettings) -> None:
        self._settings = settings
        self._kept: dict[tuple[str, bool], Workers] = {}

    def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
        """Do the units, as described in `Executor`."""
        workers, attempts = self._workers(job), Attempts(units)
        failed_starts, seen = 0, time.monotonic()
        try:
            workers.begin(job)
            while attempts.waiting(1) or workers.busy:
                workers.give(attempts)
                workers.grow(attempts)
                for answer in workers.answers():
                    seen = time.monotonic()
                    if isinstance(answer.result, list):
                        for receipt in answer.result:
                            received(receipt)
                    elif answer.attempt is not None:
                        attempts.put_back(self._tried(job, answer, answer.attempt))
                    elif isinstance(answer.result, WorkerError):
                        raise answer.result.raised(job.name)
                    else:
                        failed_starts = failed_starts + 1 if answer.result is None else 0
                        if failed_starts == self._settings.tries:
                            raise StageError(
                                f"{job.name}: no worker starts on the Ray cluster. Ray says: {answer.text}"
                            )
                if not workers.busy and time.monotonic() - seen > self._settings.wait_s:
                    raise self._no_room(job, workers)
            workers.end()
        except BaseException:
            workers.kill()
            raise

    def _workers(self, job: Job) -> Workers:
        """Return the workers for a job: those of an earlier one that had the same needs, if there was one."""
        kind = (job.library, job.gpu)
        if kind not in self._kept:
            ray = connect(address_of(self._settings.address))
            gpus = self._settings.gpus
            if gpus is None:
                gpus = 1 if job.gpu and ray.cluster_resources().get("GPU") else 0
            needs: dict[str, float] = {"num_cpus": self._settings.cpus, "num_gpus": gpus}
            if self._settings.memory_gb is not None:
                needs["memory"] = self._settings.memory_gb * 1e9
            self._kept[kind] = Workers(ray, needs, self._settings.workers)
        return self._kept[kind]

    def _tried(self, job: Job, answer: Answer, attempt: Attempt) -> Attempt:
        """Return a unit whose worker was lost or has failed, to be done again. Raises StageError, ConfigError."""
        failed = Attempt(attempt.unit, attempt.failed + 1)
        if isinstance(answer.result, WorkerError):
            if answer.result.final or failed.failed >= self._settings.tries:
                raise answer.result.raised(job.name)
        elif failed.failed >= self._settings.tries:
            place = answer.worker.place
            where = f"on {place.host}; its output is in {place.log}" if place else "before it began"
            raise StageError(
                f"{job.name}: {failed.failed} workers were lost with {', '.join(attempt.unit.shards)}, the last one "
                f"{where}. Ray says: {answer.text} What is finished is kept: run this again."
            )
        why = answer.result.text if isinstance(answer.result, WorkerError) else answer.text
        print(f"{job.name}: {', '.join(attempt.unit.shards)} is done again by another worker: {why}", file=sys.stderr)
        return failed

    def _no_room(self, job: Job, workers: Workers) -> StageError:
        nodes = [node["Resources"] for node in workers.ray.nodes() if node["Alive"]]
        have = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
        return StageError(
            f"{job.name}: for {self._settings.wait_s:g} s the Ray cluster has had no room for a worker with "
            f"{workers.needs['num_cpus']:g} CPUs and {workers.needs['num_gpus']:g} GPUs. Its nodes have: {have}. Lower "
            "cpus or gpus of runs_on.executor_settings, add nodes, or end what occupies them; then run this again."
        )

    def start_agents(self, command: Sequence[str], machines: int, processes: int, gpu: bool, log: Path) -> RayAgents:
        """Start an agent of a training on each of `machines` nodes, as described in `xdc_core.ranks.launcher`."""
        ray = connect(address_of(self._settings.address))
        return start_agents(ray, command, machines, processes, gpu, log, self._settings.wait_s)


def _check(settings: RaySettings, runs_on: RunsOn) -> None:
    """Raise ConfigError if Ray is not installed, no cluster answers, or it has other versions."""
    check_cluster(address_of(settings.address))


def _make(settings: RaySettings, runs_on: RunsOn) -> Executor:
    return RayExecutor(settings)


RAY = ExecutorKind("ray", RaySettings, _check, _make)
