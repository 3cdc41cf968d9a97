"""Nodes of several runs at once: each after what it reads, shared ones once, and a failure stops its readers only."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from flows.runners.forked import Children
from flows.runners.scheduler import Job, Scheduler
from shards.errors import Busy, XdcError
from shards.store.build import Record
from tests.runs import MakeRun
from xdc_core.graph.stages import all_nodes, inputs
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


@dataclass
class Notes:
    """The events of all runs, in their order."""

    ended: list[tuple[str, Node]] = field(default_factory=list)
    reused: list[tuple[str, Node]] = field(default_factory=list)
    errors: list[tuple[str, Node, str]] = field(default_factory=list)

    def of(self, run: Run) -> "NotesOfRun":
        return NotesOfRun(self, run.root.name)


@dataclass
class NotesOfRun:
    """A listener that notes the events of one run."""

    notes: Notes
    run: str

    def progress(self, node: Node, done: int, total: int, note: str) -> None:
        """Not noted."""

    def waiting(self, node: Node, busy: Busy) -> None:
        raise AssertionError("a scheduler does not wait for other processes")

    def finished(self, node: Node, record: Record) -> None:
        self.notes.ended.append((self.run, node))
        if record.reused:
            self.notes.reused.append((self.run, node))

    def failed(self, node: Node, error: XdcError) -> None:
        self.notes.errors.append((self.run, node, str(error)))


@pytest.fixture
def children() -> Iterator[Children]:
    """Fork servers of this test's own."""
    with Children() as own:
        yield own


def jobs_of(run: Run) -> list[Job]:
    return [Job(run, node) for node in all_nodes(run.config)]


@pytest.mark.slow
def test_of_two_runs_each_node_is_done_after_what_it_reads(make_run: MakeRun, children: Children) -> None:
    runs, notes = [make_run(), make_run(method="sdc")], Notes()
    scheduler = Scheduler(children, notes.of)
    scheduler.run([job for run in runs for job in jobs_of(run)], max_parallel=2)
    assert scheduler.failed == {}
    assert scheduler.not_reached == []
    assert notes.errors == []
    # The corpus that they share is one job.
    assert [node for _, node in notes.ended].count(Node("shard")) == 1
    for run in runs:
        order = [node for name, node in notes.ended if name == run.root.name]
        for place, node in enumerate(order):
            assert {source for source in inputs(run.config, node) if source != Node("shard")} <= set(order[:place])
        assert set(all_nodes(run.config)) - set(order) <= {Node("shard")}
    again = Notes()
    Scheduler(children, again.of).run(jobs_of(runs[1]), max_parallel=2)
    assert again.reused == again.ended != []


@pytest.mark.slow
def test_a_failure_stops_those_that_read_it_and_no_others(make_run: MakeRun, children: Children) -> None:
    bad, good, notes = make_run(k={"video": 900, "audio": 4, "joint": 4}), make_run(), Notes()
    scheduler = Scheduler(children, notes.of)
    scheduler.run([job for run in (bad, good) for job in jobs_of(run)], max_parallel=2)
    # The video encoder learns from sound, so round 1 gets to its clusters too, and fails there alike.
    failed = [Node("cluster", "video", number) for number in (0, 1)]
    assert [(run, node) for run, node, _ in notes.errors] == [(bad.root.name, node) for node in failed]
    assert all("cluster.k.video is 900" in reason for _, _, reason in notes.errors)
    done = {node for run, node in notes.ended if run == bad.root.name}
    assert Node("label", "audio", 0) in done
    assert Node("train", "audio", 0) not in done
    assert {node for run, node in notes.ended if run == good.root.name} | {Node("shard")} == set(all_nodes(good.config))
    assert len(scheduler.failed) == len(failed)
    not_done = set(all_nodes(bad.config)) - done - {Node("shard")}
    assert {node for _, node in [*scheduler.failed, *scheduler.not_reached]} == not_done
    assert len(scheduler.failed) + len(scheduler.not_reached) == len(not_done)


def test_when_it_is_enough_what_has_not_begun_is_left(copy_run: MakeRun, children: Children) -> None:
    run, notes = copy_run(), Notes()
    jobs = jobs_of(run)
    scheduler = Scheduler(children, notes.of, enough=lambda: len(notes.ended) >= 3)
    scheduler.run(jobs, max_parallel=1)
    assert [node for _, node in notes.ended] == [job.node for job in jobs[:3]]
    assert not scheduler.done.keys() & {job.key for job in jobs[3:]}
    assert scheduler.failed == {}
