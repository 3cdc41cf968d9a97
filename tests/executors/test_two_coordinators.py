"""Two coordinators of one stage at once, and no locks: the end is the whole directory, or an error."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shards.store.build
import shards.store.commit
import shards.store.lock
from flows.executors.local import LocalWorkers
from shards.errors import XdcError
from shards.progress import silent
from shards.store.build import Identity, Outcome, build, reusable
from shards.store.executor import IN_PROCESS, Executor, run_units
from shards.store.receipt import add_up, receipts_of
from tests.executors.fake_work import SIZES, job_in
from tests.faults.crash import ended, forked
from tests.faults.traces import contents, left_over
from tests.processes import children_of, state_of, wait_for
from xdc_core.config.schema import RunsOn

MARK = "a" * 64
FEW = dict(list(SIZES.items())[:7])
ERROR = 3  # The exit code of a coordinator that ended with an error for people.
stopped: set[int] = set()


@pytest.fixture(autouse=True)
def no_locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every process gets every lock, as on two machines that see nothing of each other's."""
    for module in (shards.store.build, shards.store.commit):
        monkeypatch.setattr(module, "exclusive", lambda target, patience=None: contextlib.nullcontext())
    monkeypatch.setattr(shards.store.commit, "sync", lambda path: None)
    yield
    for process in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    stopped.clear()


def build_here(target: Path, executor: Executor) -> None:
    """Build a directory of units."""

    def work(out: Path) -> Outcome:
        run_units(executor, job_in(out), FEW, 2, silent)
        rows, rejects, notes = add_up(receipts_of(out, FEW), FEW)
        return Outcome(rows, rejects, notes, tuple(f"{shard}.txt" for shard in FEW))

    build(target, Identity("test", 1, MARK), work)


def coordinator(target: Path, workers: int = 0) -> Callable[[], None]:
    """What a fork does: build, with so many workers or in its own process; it exits with `ERROR` for an error."""

    def work() -> None:
        try:
            build_here(target, LocalWorkers(workers, RunsOn(device="cpu")) if workers else IN_PROCESS)
        except XdcError as error:
            os.write(1, f"{type(error).__name__}: {error}\n".encode())
            os._exit(ERROR)

    return work


def is_whole(target: Path) -> bool:
    """Whether a directory that counts as finished holds all that it should."""
    found = {name: data for name, data in contents(target).items() if name.endswith(".txt")}
    record = reusable(target, MARK)
    assert record is not None
    return (
        found == {f"{shard}.txt": (shard * 3).encode() for shard in FEW}
        and record.rows + record.rejects == sum(FEW.values())
        and record.rejects == sum(size > 6 for size in FEW.values())
    )


def check(place: Path, codes: tuple[int, int]) -> None:
    """The end of two coordinators, and that one more leaves the whole directory and nothing else."""
    target = place / "out"
    logs = "".join((place / name).read_text() for name in ("first.log", "second.log"))
    assert set(codes) <= {0, ERROR}, logs
    if 0 in codes:
        assert reusable(target, MARK), logs
    if reusable(target, MARK):
        assert is_whole(target), logs
    build_here(target, IN_PROCESS)
    assert is_whole(target)
    assert left_over(place) == [], logs


@pytest.mark.slow
def test_a_coordinator_that_is_overtaken_at_any_point_ends_right_or_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "trace").mkdir()
    trace = tmp_path / "trace" / "points"
    assert ended(forked(coordinator(tmp_path / "trace" / "out"), tmp_path / "log", f"trace:{trace}")) == 0
    points = list(dict.fromkeys(trace.read_text().splitlines()))
    assert {"before receipt 000003", "after receipt 000003", "before commit"} <= set(points)
    ends = set()
    for number, point in enumerate(points):
        place = tmp_path / str(number)
        place.mkdir()
        first = forked(coordinator(place / "out"), place / "first.log", f"stop:1:{point}")
        stopped.add(first)
        assert os.WIFSTOPPED(os.waitpid(first, os.WUNTRACED)[1]), point
        second = ended(forked(coordinator(place / "out"), place / "second.log"))
        os.kill(first, signal.SIGCONT)
        stopped.discard(first)
        codes = (ended(first), second)
        check(place, codes)
        ends.add(codes)
    assert (ERROR, 0) in ends, "nobody was overtaken: this test has tried nothing"


def test_two_coordinators_without_workers_at_the_same_time_end_right_or_with_an_error(tmp_path: Path) -> None:
    logs = [tmp_path / name for name in ("first.log", "second.log")]
    first, second = (forked(coordinator(tmp_path / "out"), log) for log in logs)
    check(tmp_path, (ended(first), ended(second)))


@pytest.mark.parametrize("when", ["before", "after"])
def test_workers_of_a_coordinator_that_is_overtaken_write_into_no_other_directory(tmp_path: Path, when: str) -> None:
    target = tmp_path / "out"
    first = forked(coordinator(target, 2), tmp_path / "first.log", f"stop:1:{when} receipt 000002")
    stopped.add(first)

    def stopped_workers() -> list[int]:
        workers = [worker for forker in children_of(first) for worker in children_of(forker)]
        return [worker for worker in workers if state_of(worker) == "T"]

    wait_for("a stopped worker", stopped_workers)
    (worker,) = stopped_workers()
    second = ended(forked(coordinator(target, 2), tmp_path / "second.log"))
    assert second == 0
    with contextlib.suppress(ProcessLookupError):  # The other worker has failed already: then all have been ended.
        os.kill(worker, signal.SIGCONT)
    assert ended(first) == ERROR
    stopped.discard(first)
    assert "another process" in (tmp_path / "first.log").read_text()
    check(tmp_path, (ERROR, second))
