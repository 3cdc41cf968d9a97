"""Two processes at the same stage of a run: one works, the other waits for it and takes what it has built."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from flows.runners.do_node import do_node
from flows.runners.in_process import InProcess
from shards.errors import Busy, StageError, XdcError
from shards.progress import Progress, silent
from shards.store.build import Record
from shards.store.lock import exclusive
from tests.processes import wait_for
from tests.runs import MakeRun
from xdc_core.graph.run_stage import reuse, run_stage
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

INIT = Node("init", "audio")


class Notes:
    """A listener that notes the events of one node."""

    def __init__(self) -> None:
        self.waits = threading.Event()
        self.reasons: list[str] = []
        self.ends: list[str] = []

    def progress(self, node: Node, done: int, total: int, note: str) -> None:
        assert node == INIT

    def waiting(self, node: Node, busy: Busy) -> None:
        self.reasons.append(str(busy))
        self.waits.set()

    def finished(self, node: Node, record: Record) -> None:
        self.ends.append("reused" if record.reused else "done")

    def failed(self, node: Node, error: XdcError) -> None:
        self.ends.append(f"failed: {error}")


@pytest.fixture
def runner() -> Iterator[InProcess]:
    own = InProcess()
    yield own
    own.close()


def test_a_stage_that_another_process_builds_waits_and_goes_on_when_that_one_dies(
    make_run: MakeRun, runner: InProcess
) -> None:
    run, notes = make_run(), Notes()
    with ThreadPoolExecutor(1) as pool:
        with exclusive(run.directory(INIT)):
            record = pool.submit(do_node, run, INIT, runner, [notes], wait=True)
            assert notes.waits.wait(120)
            assert f"{run.directory(INIT)} is being built by another process (pid " in notes.reasons[-1]
            assert not record.done()
        assert not record.result(120).reused
    assert notes.ends == ["done"]
    assert reuse(run, INIT) is not None


def test_who_has_waited_takes_what_the_other_has_built(make_run: MakeRun, runner: InProcess) -> None:
    run, other, notes = make_run(), make_run(), Notes()
    run_stage(other, INIT)
    with ThreadPoolExecutor(1) as pool:
        with exclusive(run.directory(INIT)):
            record = pool.submit(do_node, run, INIT, runner, [notes], wait=True)
            assert notes.waits.wait(120)
            other.directory(INIT).rename(run.directory(INIT))
        assert record.result(120).reused
    assert notes.ends == ["reused"]


def test_who_waits_can_be_stopped(make_run: MakeRun, runner: InProcess) -> None:
    run, notes = make_run(), Notes()
    with ThreadPoolExecutor(1) as pool, exclusive(run.directory(INIT)):
        record = pool.submit(do_node, run, INIT, runner, [notes], wait=True)
        assert notes.waits.wait(120)
        runner.close()
        with pytest.raises(StageError, match="not started: the run is being stopped"):
            record.result(30)
    assert notes.ends == ["failed: not started: the run is being stopped."]


def test_who_does_not_want_to_wait_is_refused(make_run: MakeRun, runner: InProcess) -> None:
    run, notes = make_run(), Notes()
    with exclusive(run.directory(INIT)), pytest.raises(Busy, match="is being built by another process"):
        do_node(run, INIT, runner, [notes])
    assert notes.reasons == []
    (end,) = notes.ends
    assert end.startswith(f"failed: {run.directory(INIT)} is being built by another process")


class Counting:
    """A runner that counts the stages in progress; they last until `go_on` is set."""

    def __init__(self) -> None:
        self.in_progress, self.most, self.lock = 0, 0, threading.Lock()
        self.go_on = threading.Event()

    def run_stage(
        self,
        run: Run,
        node: Node,
        force: bool = False,
        progress: Progress = silent,
        corpus_read_as: str | None = None,
    ) -> Record:
        with self.lock:
            self.in_progress += 1
            self.most = max(self.most, self.in_progress)
        self.go_on.wait(60)
        with self.lock:
            self.in_progress -= 1
        return Record(node.stage, node.modality, node.round, "", "", False, 0, 0, 0.0, {})

    def pause(self, seconds: float) -> None:
        raise AssertionError("nobody waits here")

    def close(self) -> None:
        raise AssertionError("nobody closes it")


@pytest.mark.parametrize("parallel", [False, True])
def test_the_stages_of_a_run_are_in_progress_one_at_a_time_where_its_configuration_says_so(
    make_run: MakeRun, parallel: bool
) -> None:
    run, other, runner = make_run(runs_on={"parallel": parallel}), make_run(runs_on={"parallel": False}), Counting()
    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(do_node, run, Node("init", modality), runner) for modality in ("video", "audio")]
        done.append(pool.submit(do_node, other, INIT, runner))  # Another run does not wait for this one.
        expected = 3 if parallel else 2
        wait_for("stages to be in progress", lambda: runner.in_progress == expected)
        runner.go_on.set()
        assert [future.result(60).stage for future in done] == ["init"] * 3
    assert runner.most == expected
