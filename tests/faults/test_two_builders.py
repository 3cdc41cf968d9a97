"""Two processes build one directory at once, and locks do not keep them apart: the end is right, or an error.

One is stopped at a named point (SIGSTOP), the other one works to its end, then the first goes on. Real processes; what
is switched off is what a shared disk may lack between two machines.
"""

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shards.store.build
import shards.store.commit
import shards.store.lock
from shards.errors import Busy, XdcError
from shards.store.build import Identity, Outcome, build, reusable
from shards.store.files import write_text
from shards.store.manifest import read_manifest
from tests.faults.crash import ended, forked
from tests.faults.traces import contents, left_over
from tests.processes import wait_for

ONE, OTHER, THIRD = "a" * 64, "b" * 64, "c" * 64
SHARDS = ("000000", "000001")
WHEN = ("before", "after")
ERROR = 3  # The exit code of a builder that ended with an error for people.

Setup = Callable[[Path], object]


standing: set[int] = set()


@pytest.fixture(autouse=True)
def nobody_stands_for_ever() -> Iterator[None]:
    """What a test that failed has stopped is ended."""
    yield
    for process in standing:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    standing.clear()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock file of another machine is given up after a fifth of a second; nothing waits for the disk."""
    monkeypatch.setattr(shards.store.commit, "sync", lambda path: None)
    monkeypatch.setattr(shards.store.lock, "PATIENCE", 0.2)
    monkeypatch.setattr(shards.store.lock, "RENEWAL", 0.05)


def build_here(target: Path, mark: str, force: bool = False, first: Callable[[], None] = lambda: None) -> None:
    """Build what a stage makes of two shards, and a log to which a line is appended for each. `first` comes first."""

    def work(out: Path) -> Outcome:
        first()
        log = out / "metrics.jsonl"
        there = [shard for shard in SHARDS if (out / "rows" / f"{shard}.txt").exists()]
        write_text(log, "".join(json.dumps(shard) + "\n" for shard in there))
        for shard in SHARDS:
            if shard not in there:
                with log.open("a") as file:
                    file.write(json.dumps(shard) + "\n")
                write_text(out / "rows" / f"{shard}.txt", f"{shard} of {mark}")
        return Outcome(len(SHARDS), files=tuple(f"rows/{shard}.txt" for shard in SHARDS))

    build(target, Identity("test", 1, mark), work, force)


def is_right(target: Path, mark: str) -> bool:
    """Whether a directory that counts as finished holds all that it should, once."""
    rows = {f"rows/{shard}.txt": f"{shard} of {mark}".encode() for shard in SHARDS}
    found = {name: data for name, data in contents(target).items() if name.startswith("rows/")}
    lines = [json.loads(line) for line in (target / "metrics.jsonl").read_text().splitlines()]
    return found == rows and lines == list(SHARDS)


def builder(
    target: Path, mark: str, force: bool, machine: str, first: Callable[[], None] = lambda: None
) -> Callable[[], None]:
    """What a fork does: build, on a machine of this name; it exits with `ERROR` where that ends in a sentence."""

    def work() -> None:
        shards.store.lock.this_machine = lambda: machine
        try:
            build_here(target, mark, force, first)
        except XdcError as error:
            os.write(1, f"{type(error).__name__}: {error}\n".encode())
            os._exit(ERROR)

    return work


def points_of(setup: Setup, place: Path, force: bool) -> list[str]:
    """The names of all points that a builder passes, in order."""
    setup(place / "out")
    trace = place / "points"
    assert ended(forked(builder(place / "out", ONE, force, "first"), place / "log", f"trace:{trace}")) == 0
    return list(dict.fromkeys(trace.read_text().splitlines()))


def stopped(work: Callable[[], None], point: str, log: Path) -> int:
    """A builder that stands still at a point. Returns its process id, or ends the test where it does not pass there."""
    process = forked(work, log, f"stop:1:{point}")
    standing.add(process)
    _, status = os.waitpid(process, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"it did not pass {point}: {log.read_text()}"
    return process


def gone_on(process: int) -> int:
    """The exit code of a builder that stood still."""
    standing.discard(process)
    os.kill(process, signal.SIGCONT)
    return ended(process)


def without_locks(patch: pytest.MonkeyPatch) -> None:
    """Every process gets every lock, as on two machines that see nothing of each other's."""
    for module in (shards.store.build, shards.store.commit):
        patch.setattr(module, "exclusive", lambda target, patience=None: contextlib.nullcontext())


def check(place: Path, codes: tuple[int, int], seconds_mark: str) -> None:
    """The end of two builders is one right directory, or the error of at least one; and never something else."""
    target = place / "out"
    logs = "".join((place / name).read_text() for name in ("first.log", "second.log"))
    assert set(codes) <= {0, ERROR}, logs
    fresh = [mark for mark in (ONE, OTHER, THIRD) if reusable(target, mark) is not None]
    for mark in fresh:
        assert is_right(target, mark), f"{codes}: {sorted(contents(target))}\n{logs}"
    if codes[0] == 0:
        assert fresh == [ONE] or (fresh == [seconds_mark] and codes[1] == 0), logs
    elif codes[1] == 0:
        assert fresh == [seconds_mark], logs
    build_here(target, ONE)
    build_here(target, ONE)
    assert reusable(target, ONE) is not None
    assert is_right(target, ONE)


def nothing(target: Path) -> None:
    """Nothing stands at the target."""


def begun(target: Path) -> None:
    """A killed builder has left one shard."""
    assert ended(forked(builder(target, ONE, False, "dead"), target.with_name("log"), "kill:1:after rename 000000.txt"))


def with_other_settings(target: Path) -> None:
    """What stands there was made with other settings."""
    build_here(target, OTHER)


def to_be_restored(target: Path) -> None:
    """What is asked for was set aside for what stands there."""
    build_here(target, ONE)
    build_here(target, OTHER)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setup", "force", "mark"),
    [
        (nothing, False, ONE),
        (begun, False, ONE),
        (with_other_settings, False, ONE),
        (with_other_settings, False, THIRD),
        (with_other_settings, True, ONE),
        (with_other_settings, True, OTHER),
        (to_be_restored, False, ONE),
        (to_be_restored, False, THIRD),
    ],
)
def test_without_any_lock_a_builder_that_is_overtaken_at_any_point_ends_right_or_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setup: Setup, force: bool, mark: str
) -> None:
    (tmp_path / "trace").mkdir()
    points = points_of(setup, tmp_path / "trace", force)
    assert "after commit" in points or "after restore" in points
    ends = set()
    for number, point in enumerate(point for point in points if not point.endswith("unlock out")):
        place = tmp_path / str(number)
        place.mkdir()
        setup(place / "out")
        with monkeypatch.context() as patch:
            without_locks(patch)
            first = stopped(builder(place / "out", ONE, force, "first"), point, place / "first.log")
            second = ended(forked(builder(place / "out", mark, force, "second"), place / "second.log"))
            codes = (gone_on(first), second)
        check(place, codes, mark)
        ends.add(codes)
    assert (ERROR, 0) in ends, "nobody was overtaken: this test has tried nothing"


@pytest.mark.parametrize("point", ["after rename 000000.txt", "after rename manifest.json"])
def test_without_any_lock_of_two_builders_that_take_turns_the_later_one_ends_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    without_locks(monkeypatch)
    turns = ["after begin", *(f"{when} rename {name}" for name in ("metrics.jsonl", "manifest.json") for when in WHEN)]
    for number, turn in enumerate([*turns, "before commit"]):
        place = tmp_path / str(number)
        place.mkdir()
        first = stopped(builder(place / "out", ONE, False, "first"), point, place / "first.log")
        second = stopped(builder(place / "out", ONE, False, "second"), turn, place / "second.log")
        codes = (gone_on(first), gone_on(second))
        assert codes == (ERROR, 0), "who goes on with what was begun keeps it"
        check(place, codes, ONE)


@pytest.mark.parametrize("machines", [("one", "one"), ("one", "other")], ids=["one machine", "two machines"])
def test_without_flock_of_two_builders_the_first_one_builds_and_the_other_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machines: tuple[str, str]
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    monkeypatch.setattr(shards.store.lock, "MOMENT", 0.2)
    begun, go_on = tmp_path / "begun", tmp_path / "go on"

    def wait_in_the_middle() -> None:  # Not stopped: it renews its lock meanwhile.
        begun.touch()
        wait_for("the other builder", go_on.exists)

    first = forked(builder(tmp_path / "out", ONE, False, machines[0], wait_in_the_middle), tmp_path / "first.log")
    standing.add(first)
    wait_for("the first builder", begun.exists)
    log = tmp_path / "second.log"
    assert ended(forked(builder(tmp_path / "out", ONE, False, machines[1]), log)) == ERROR
    assert log.read_text().startswith(
        f"{Busy.__name__}: {tmp_path / 'out'} is being built by another process (pid {first})"
    )
    go_on.touch()
    standing.discard(first)
    assert ended(first) == 0
    assert is_right(tmp_path / "out", ONE)
    for path in (begun, go_on):
        path.unlink()
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("machines", [("one", "one"), ("one", "other")], ids=["one machine", "two machines"])
def test_without_flock_two_builders_that_start_at_once_leave_one_right_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machines: tuple[str, str]
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    monkeypatch.setattr(shards.store.lock, "MOMENT", 0.2)
    for number in range(6):
        place = tmp_path / str(number)
        place.mkdir()
        log = place / "log"
        pair = [forked(builder(place / "out", ONE, False, machine), log) for machine in machines]
        codes = sorted(ended(process) for process in pair)
        assert codes in ([0, 0], [0, ERROR]), log.read_text()  # Both: the later one has found it finished.
        assert (Busy.__name__ in log.read_text()) == (codes == [0, ERROR])
        assert is_right(place / "out", ONE)
        assert left_over(place) == []


@pytest.mark.parametrize("point", ["after rename 000000.txt", "before commit"])
def test_without_flock_who_stands_still_on_another_machine_is_taken_for_dead_and_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    first = stopped(builder(tmp_path / "out", ONE, False, "one"), point, tmp_path / "first.log")
    assert ended(forked(builder(tmp_path / "out", ONE, False, "other"), tmp_path / "second.log")) == 0
    assert gone_on(first) == ERROR
    assert "another process has continued, committed or deleted it" in (tmp_path / "first.log").read_text()
    assert is_right(tmp_path / "out", ONE)
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert manifest.rows == len(SHARDS)
    assert left_over(tmp_path) == []
