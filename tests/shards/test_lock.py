"""Who holds the lock of a directory, on this machine and on another one."""

import fcntl
import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shards.errors import Busy
from shards.store import lock
from shards.store.commit import clear_left_overs
from shards.store.lock import exclusive, in_progress, lock_of, read_holder
from tests.places import ROOT

HOLD = """
import fcntl, sys, time
from pathlib import Path
from shards.store import lock
from shards.store.commit import clear_left_overs
if len(sys.argv) > 2:  # On another machine, whose locks do not reach this one.
    fcntl.flock = lambda file, how: None
    lock.this_machine = lambda: sys.argv[2]
lock.RENEWAL = 0.05
with lock.exclusive(Path(sys.argv[1])):
    print("holding", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(target: Path, *machine: str) -> Iterator[subprocess.Popen[str]]:
    """A living process that holds the lock."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target), *machine], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for a directory. A silent holder on another machine is given up after 0.5 s."""
    monkeypatch.setattr(lock, "PATIENCE", 0.5)
    monkeypatch.setattr(lock, "MOMENT", 0.3)
    return tmp_path / "out"


def test_the_lock_names_host_process_and_start_and_is_gone_afterwards(target: Path) -> None:
    with exclusive(target):
        found = read_holder(lock_of(target))
        assert found is not None
        assert (found.host, found.pid) == (platform.node(), os.getpid())
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found.started)
        assert f"(pid {os.getpid()}), on host {platform.node()}, since {found.started}" in in_progress(target)
    assert names_in(target.parent) == []
    assert in_progress(target) == ""


def test_who_is_busy_is_named_with_host_and_start(target: Path) -> None:
    with holder(target) as process:
        with (
            pytest.raises(Busy, match=rf"\(pid {process.pid}\), on host {platform.node()}, since 2\d{{3}}-"),
            exclusive(target),
        ):
            pass
        assert f"(pid {process.pid})" in in_progress(target)


def test_a_killed_holder_of_this_machine_is_in_nobodys_way(target: Path) -> None:
    with holder(target) as process:
        os.kill(process.pid, signal.SIGKILL)  # Not waited for: its entry in the table of processes is still there.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert in_progress(target) == ""
        with exclusive(target):
            assert f"(pid {os.getpid()})" in in_progress(target)
    assert names_in(target.parent) == []


def test_a_process_that_has_the_pid_of_a_dead_holder_is_not_taken_for_it(target: Path) -> None:
    with exclusive(target):
        said = json.loads(lock_of(target).read_text())
    lock_of(target).write_text(json.dumps(said | {"born": "1"}))
    with exclusive(target):
        pass
    assert names_in(target.parent) == []


@pytest.mark.parametrize("content", ["4711", "", "{}"], ids=["of xdc 0.1.0", "killed before it wrote", "no holder"])
def test_a_lock_that_names_nobody_and_is_free_is_taken_over(target: Path, content: str) -> None:
    lock_of(target).write_text(content)
    with exclusive(target):
        assert read_holder(lock_of(target)) is not None
    assert names_in(target.parent) == []


def test_where_flock_tells_nothing_a_living_holder_of_this_machine_is_respected(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder(target) as process:
        monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
        with pytest.raises(Busy, match=rf"pid {process.pid}"), exclusive(target):
            pass
        assert f"(pid {process.pid})" in in_progress(target)


def test_a_holder_on_another_machine_is_respected_while_it_renews_its_lock_and_followed_when_it_stops(
    target: Path,
) -> None:
    with holder(target, "another machine") as process:
        with pytest.raises(Busy, match=rf"pid {process.pid}"), exclusive(target):
            pass
        assert "which may be dead and cannot be checked from this machine" in in_progress(target)
        with pytest.raises(Busy), exclusive(target, patience=0):
            pass
        process.kill()
        process.wait()
        with pytest.raises(Busy), exclusive(target, patience=0):
            pass
        with exclusive(target):
            found = read_holder(lock_of(target))
            assert found is not None
            assert found.pid == os.getpid()
    assert names_in(target.parent) == []


def test_who_has_lost_a_lock_does_not_remove_the_next_ones(target: Path) -> None:
    with exclusive(target):
        lock_of(target).unlink()
        lock_of(target).write_text("another's")
    assert lock_of(target).read_text() == "another's"


def test_a_file_system_without_locks_is_no_error(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(file: object, how: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with exclusive(target), pytest.raises(Busy), exclusive(target):
        pass
    assert names_in(target.parent) == []


def test_a_lock_that_another_machine_left_long_ago_is_removed_without_waiting(target: Path) -> None:
    with holder(target, "this machine before its restart") as process:
        process.kill()
        process.wait()
    target.mkdir()
    begun = target.with_name(f".{target.name}.{'a' * 64}.partial")
    begun.mkdir()
    clear_left_overs(target)
    assert "which may be dead" in in_progress(target), "it may live"
    assert begun.exists()
    long_ago = lock_of(target).stat().st_mtime - lock.ABANDONED - 60
    os.utime(lock_of(target), (long_ago, long_ago))
    assert in_progress(target) == ""
    clear_left_overs(target)
    assert names_in(target.parent) == ["out"]
