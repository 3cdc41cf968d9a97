"""Nodes of one or more runs, worked off in child processes: each after those that it reads, so many at a time.

For commands that are no round: evaluations, and studies of many runs. Rounds are Prefect's
(`flows/orchestration/xdc_round.py`).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from flows.runners.events import Listener
from flows.runners.forked import CHILDREN
from shards.errors import XdcError
from shards.store.build import Record
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import reuse
from xdc_core.graph.stages import inputs
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run


@dataclass(frozen=True)
class Job:
    """One node of one run."""

    run: Run
    node: Node

    @property
    def sources(self) -> list["Job"]:
        """What it reads."""
        return [Job(self.run, node) for node in inputs(self.run.config, self.node)]

    @property
    def place(self) -> tuple[Path, Node]:
        """Tells jobs apart; two runs may share the directory of a corpus."""
        return self.run.directory(self.node).resolve(), self.node


@dataclass
class Crew:
    """What is known while jobs are worked off. `listener` gives the one who is told of a run's nodes.

    `failed` has the reason of each job that failed, or was not reached.
    """

    listener: Callable[[Run], Listener]
    force: bool = False
    done: dict[tuple[Path, Node], Record] = field(default_factory=dict)
    failed: dict[tuple[Path, Node], str] = field(default_factory=dict)

    def work_off(self, jobs: Sequence[Job], slots: int) -> None:
        """Do all jobs; of those that are ready the first goes first. One that fails stops only those that read it."""
        waiting = {job.place: job for job in jobs}  # The corpus of several runs is one job.
        needs = {place: {source.place for source in job.sources} for place, job in waiting.items()}
        at_work: dict[Future[Record], Job] = {}
        with ThreadPoolExecutor(slots) as pool:
            try:
                while waiting or at_work:
                    busy = {job.place for job in at_work.values()}
                    for place, job in list(waiting.items()):
                        if needs[place] & self.failed.keys():
                            self.failed[place] = "not reached"
                            del waiting[place]
                        elif len(at_work) < slots and not any(n in waiting or n in busy for n in needs[place]):
                            at_work[pool.submit(self._do, job)] = waiting.pop(place)
                            busy.add(place)
                    if at_work:
                        finished, _ = wait(at_work, return_when=FIRST_COMPLETED)
                        for future in finished:
                            self._finish(at_work.pop(future), future)
            except BaseException:  # Ctrl-C: the threads that wait for children end when these do.
                CHILDREN.close()
                raise

    def _do(self, job: Job) -> Record:
        corpus = self.done.get(Job(job.run, SHARD).place)
        known = corpus.fingerprint if corpus else None
        if not self.force and (record := reuse(job.run, job.node, Fingerprints(job.run, known))):
            return record

        def progress(done: int, total: int, note: str = "") -> None:
            self.listener(job.run).progress(job.node, done, total, note)

        return CHILDREN.run_stage(job.run, job.node, self.force, progress, known)

    def _finish(self, job: Job, future: Future[Record]) -> None:
        try:
            record = future.result()
        except XdcError as error:
            self.failed[job.place] = str(error)
            self.listener(job.run).failed(job.node, error)
            return
        self.done[job.place] = record
        self.listener(job.run).finished(job.node, record)
