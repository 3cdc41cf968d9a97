"""Two at the same stage of a run: one works, the other waits for it and takes what it has made."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prefect.logging import disable_run_logger

from flows.orchestration import tasks
from flows.runners.forked import Children
from shards.errors import StageError
from shards.store.commit import exclusive
from xdc_core.graph.run_stage import reuse, run_stage
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

MakeRun = Callable[..., Run]
INIT = Node("init", "audio")


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    """Fork servers of this test's own."""
    own = Children()
    monkeypatch.setattr(tasks, "CHILDREN", own)
    yield own
    own.close()


class Notes:
    """What a waiting stage tells."""

    def __init__(self) -> None:
        self.waits = threading.Event()
        self.told: list[str] = []

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.told.append(note)
        if note.startswith("waiting"):
            self.waits.set()


def test_a_stage_that_another_process_is_at_waits_and_goes_on_when_that_one_dies(
    make_run: MakeRun, children: Children
) -> None:
    run, notes = make_run(), Notes()
    with ThreadPoolExecutor(1) as pool, disable_run_logger():
        with exclusive(run.directory(INIT)):
            record = pool.submit(tasks.run_or_wait, run, INIT, False, notes, None)
            assert notes.waits.wait(120)
            assert f"{run.directory(INIT)} is being built by another process (pid " in notes.told[-1]
            assert not record.done()
        assert not record.result(120).reused
    assert reuse(run, INIT) is not None


def test_who_has_waited_takes_what_the_other_has_made(make_run: MakeRun, children: Children) -> None:
    run, other, notes = make_run(), make_run(), Notes()
    run_stage(other, INIT)
    with ThreadPoolExecutor(1) as pool, disable_run_logger():
        with exclusive(run.directory(INIT)):
            record = pool.submit(tasks.run_or_wait, run, INIT, False, notes, None)
            assert notes.waits.wait(120)
            other.directory(INIT).rename(run.directory(INIT))
        assert record.result(120).reused


def test_who_waits_can_be_stopped(make_run: MakeRun, children: Children) -> None:
    run, notes = make_run(), Notes()
    with ThreadPoolExecutor(1) as pool, disable_run_logger(), exclusive(run.directory(INIT)):
        record = pool.submit(tasks.run_or_wait, run, INIT, False, notes, None)
        assert notes.waits.wait(120)
        children.close()
        with pytest.raises(StageError, match="not started: the run is being stopped"):
            record.result(30)
