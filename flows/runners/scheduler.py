"""Run nodes of one or more runs, each after its inputs.

It is for evaluations and for studies of many runs. Prefect runs the rounds (`flows/orchestration/xdc_round.py`).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from flows.runners.do_node import do_node
from flows.runners.events import Listener
from flows.runners.stage_runner import StageRunner
from shards.corpus.generation import read_as
from shards.errors import XdcError
from shards.store.build import Record
from xdc_core.graph.stages import inputs
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run

JobKey = tuple[Path, Node]


@dataclass(frozen=True)
class Job:
    """One node of one run. force: rebuild it even if it is fresh; what it reads is made if it is not there."""

    run: Run
    node: Node
    force: bool = False

    @property
    def sources(self) -> list["Job"]:
        """Return the jobs whose directories this one reads."""
        return [Job(self.run, node) for node in inputs(self.run.config, self.node)]

    @property
    def key(self) -> JobKey:
        """Return the directory and the node: two runs that share a corpus have one job for it."""
        return self.run.directory(self.node).resolve(), self.node


@dataclass
class Scheduler:
    """Run jobs and record their results. `listener` returns the listener for a run's nodes.

    `done` has the record of each finished or reused job, `failed` the error of each failed job, and `not_reached` the
    jobs that depend on a failed one. Once `enough` returns True no further job is started.
    """

    runner: StageRunner
    listener: Callable[[Run], Listener]
    done: dict[JobKey, Record] = field(default_factory=dict)
    failed: dict[JobKey, XdcError] = field(default_factory=dict)
    not_reached: list[JobKey] = field(default_factory=list)
    enough: Callable[[], bool] = lambda: False

    def run(self, jobs: Sequence[Job], max_parallel: int) -> None:
        """Run all jobs, at most `max_parallel` at once, in their order as far as their inputs allow.

        A failed job stops only those that depend on it. A repeated job is run once.
        """
        pending = {job.key: job for job in jobs}
        reads = {key: {source.key for source in job.sources} for key, job in pending.items()}
        readers: dict[JobKey, list[Job]] = {key: [] for key in pending}
        for key, sources in reads.items():
            for source in sources & readers.keys():
                readers[source].append(pending[key])
        running: dict[Future[Record], JobKey] = {}
        with ThreadPoolExecutor(max_parallel) as pool:
            try:
                while pending or running:
                    unfinished = pending.keys() | set(running.values())
                    if pending and self.enough():
                        pending.clear()
                    unreachable = {*self.failed, *self.not_reached}
                    for key, job in list(pending.items()):
                        if not reads[key].isdisjoint(unreachable):
                            unreachable.add(key)
                            self.not_reached.append(key)
                            del pending[key]
                        elif len(running) < max_parallel and reads[key].isdisjoint(unfinished):
                            running[pool.submit(self._do, job, readers[key])] = key
                            del pending[key]
                    if running:
                        finished, _ = wait(running, return_when=FIRST_COMPLETED)
                        for future in finished:
                            self._keep(running.pop(future), future)
            except BaseException:  # Ctrl-C: the threads that wait for stages end when the stages do.
                self.runner.close()
                raise

    def _do(self, job: Job, readers: list[Job]) -> Record:
        corpus = self.done.get(Job(job.run, SHARD).key)
        return do_node(
            job.run,
            job.node,
            self.runner,
            [self.listener(job.run)],
            force=job.force,
            corpus_read_as=read_as(corpus) if corpus else None,
            # One that is forced reads the files even if it is finished.
            readers=None if any(reader.force for reader in readers) else [reader.node for reader in readers],
        )

    def _keep(self, key: JobKey, future: Future[Record]) -> None:
        try:
            self.done[key] = future.result()
        except XdcError as error:
            self.failed[key] = error
