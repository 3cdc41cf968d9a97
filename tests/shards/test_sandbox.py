"""Work in processes that may crash or hang: each costs its own job, and nothing is left running."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from shards.errors import Killed, MachineError, MediaError, SourceError
from shards.media import sandbox
from shards.media.child import Limits
from shards.media.sandbox import ordered_map
from tests.places import ROOT
from tests.processes import alive, children_of, wait_for
from tests.shards import sandbox_dead_on_arrival, sandbox_jobs

MINUTE = Limits(60.0)
linux = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at processes through /proc")


def children() -> list[BaseProcess]:
    """The running children that are not other tests' loaders, which are forked."""
    return [child for child in multiprocessing.active_children() if isinstance(child, SpawnProcess)]


def outcomes(jobs: list[tuple[Any, ...]], workers: int = 2, timeout_s: float = 60.0) -> list[Any]:
    """What came back, errors as their text."""
    answers = list(ordered_map(sandbox_jobs.behave, jobs, workers, Limits(timeout_s)))
    return [str(answer) if isinstance(answer, MediaError) else answer for answer in answers]


def test_results_come_in_the_order_of_the_jobs() -> None:
    jobs = [(0.2 if n % 5 == 0 else 0.0, n) for n in range(20)]
    results = list(ordered_map(sandbox_jobs.after, jobs, 2, MINUTE))
    assert [number for number, _ in results] == list(range(20))
    used = {pid for _, pid in results}
    assert 1 <= len(used) <= 2
    assert os.getpid() not in used
    assert not any(alive(pid) for pid in used)


def test_no_jobs_start_no_process() -> None:
    assert list(ordered_map(sandbox_jobs.after, [], 2, MINUTE)) == []
    assert children() == []


def test_large_results_pass_through() -> None:
    results = list(ordered_map(sandbox_jobs.large, [(5_000_000,), (0,), (3_000_000,)], 2, MINUTE))
    assert [len(result) for result in results] == [5_000_000, 0, 3_000_000]


def test_what_raises_costs_one_job_and_tells_why() -> None:
    hows = ["well", "media", "unexpected", "memory", "well"]
    assert outcomes([(how, n) for n, how in enumerate(hows)]) == [
        0,
        "file 1 is no use",
        "a defect of xdc, please report it with the file (ZeroDivisionError: of all things)",
        "needed more memory than there is",
        40,
    ]


def test_what_crashes_costs_one_job_and_the_rest_goes_on() -> None:
    hows = ["well", "exit", "well", "segfault", "kill", "well", "really segfault", "leave", "well"]
    for workers in (1, 2):
        assert outcomes([(how, n) for n, how in enumerate(hows)], workers) == [
            0,
            "the decoding process ended by itself (exit 7)",
            20,
            "the decoder crashed (signal 11, SIGSEGV)",
            "the decoding process was killed from outside (signal 9), most often for lack of memory",
            50,
            "the decoder crashed (signal 11, SIGSEGV)",
            "the decoding process ended by itself (exit 5)",
            80,
        ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_whole_group_is_the_parents_affair(number: signal.Signals) -> None:
    results = ordered_map(sandbox_jobs.after, ((0.1, n) for n in range(8)), 1, MINUTE)
    _, first = next(results)
    os.kill(first, number)
    assert list(results) == [(job, first) for job in range(1, 8)]


def test_what_hangs_costs_one_job_and_the_rest_goes_on() -> None:
    hows = ["well", "hang", "well", "well"]
    assert outcomes([(how, n) for n, how in enumerate(hows)], timeout_s=4.0) == [
        0,
        "took longer than 4 s (corpus.clip_timeout_s)",
        20,
        30,
    ]


def test_a_result_that_cannot_be_sent_costs_one_job() -> None:
    answers = list(ordered_map(sandbox_jobs.unsendable, [()], 1, MINUTE))
    assert [str(answer) for answer in answers] == ["the decoding process ended by itself (exit 1)"]


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file with as many bytes as processes end before they take a job."""
    left = tmp_path / "left"
    left.write_bytes(b"")
    monkeypatch.setenv(sandbox_dead_on_arrival.LEFT, str(left))
    return left


@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_that_ends_before_it_takes_its_first_job_costs_no_job(dying: Path, workers: int) -> None:
    dying.write_bytes(bytes(2))
    assert list(ordered_map(sandbox_dead_on_arrival.work, [(n,) for n in range(3)], workers, MINUTE)) == [0, 1, 2]
    assert dying.stat().st_size == 0


def test_processes_that_never_take_a_job_end_the_map(dying: Path) -> None:
    dying.write_bytes(bytes(100))
    with pytest.raises(
        MachineError, match=r"did not get to its first file, 3 times: .*\(exit 1\)\. No file is to blame"
    ):
        list(ordered_map(sandbox_dead_on_arrival.work, [(n,) for n in range(3)], 2, MINUTE))
    assert children() == []
    assert 95 <= dying.stat().st_size <= 97


def test_a_slow_start_is_not_counted_against_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    # Shorter than any interpreter needs to start, longer than the job.
    assert list(ordered_map(sandbox_jobs.behave, [("well", 1)] * 3, 1, Limits(0.02))) == [10] * 3
    monkeypatch.setattr(sandbox, "START_S", 0.001)
    with pytest.raises(MachineError, match=r"took longer than 0\.001 s to start"):
        list(ordered_map(sandbox_jobs.behave, [("well", 1)], 1, MINUTE))


@pytest.mark.usefixtures("dying")
def test_a_module_that_cannot_be_imported_ends_the_map() -> None:
    with pytest.raises(
        MachineError, match=r"cannot be imported \(ImportError: .*sandbox_no_longer_there.*No file is to"
    ):
        list(ordered_map(sandbox_dead_on_arrival.import_missing, [(1,)], 1, MINUTE))


def test_an_idle_process_that_is_killed_is_replaced() -> None:
    results = ordered_map(sandbox_jobs.after, ((0.0, n) for n in range(40)), 1, MINUTE)
    _, first = next(results)
    os.kill(first, signal.SIGKILL)
    wait_for("the end of the child", lambda: not alive(first))
    rest = list(results)
    # The job that it was just given is done by the next.
    assert [number for number, _ in rest] == list(range(1, 40))


@pytest.mark.parametrize(("how", "error"), [("killed", Killed), ("ended", Killed), ("unreadable", SourceError)])
def test_what_may_be_the_machines_fault_is_tried_once_more_in_another_process(
    tmp_path: Path, how: str, error: type[Exception]
) -> None:
    jobs = [(how, str(tmp_path / f"{times}"), times) for times in (0, 1, 2, 0)]
    answers = list(ordered_map(sandbox_jobs.fail_at_first, jobs, 1, MINUTE))
    tried = [(tmp_path / name).read_text().split() for name in ("1", "2")]
    assert [len(set(processes)) for processes in tried] == [2, 2]
    assert [type(answer) for answer in answers] == [int, int, error, int]


def test_jobs_are_not_taken_far_ahead_of_their_results() -> None:
    taken = 0

    def jobs() -> Iterator[tuple[float, int]]:
        nonlocal taken
        for number in range(200):
            taken += 1
            yield 0.0, number

    for done, _ in enumerate(ordered_map(sandbox_jobs.after, jobs(), 2, MINUTE)):
        assert taken <= done + 1 + 16
    assert taken == 200


def test_a_slow_first_job_does_not_let_results_pile_up() -> None:
    taken = 0

    def jobs() -> Iterator[tuple[float, int]]:
        nonlocal taken
        for number in range(200):
            taken += 1
            yield (1.0 if number == 0 else 0.0), number

    results = ordered_map(sandbox_jobs.after, jobs(), 2, MINUTE)
    next(results)
    assert taken <= 17
    results.close()


@linux
def test_no_child_is_left_when_the_caller_stops_early() -> None:
    results = ordered_map(sandbox_jobs.after, ((0.0 if n < 2 else 60.0, n) for n in range(10)), 2, Limits(600.0))
    assert next(results)[0] == 0
    running = [child.pid for child in children()]
    assert len(running) == 2
    results.close()
    assert not any(alive(pid) for pid in running if pid)
    assert children() == []


@linux
def test_no_child_is_left_when_the_source_of_jobs_fails() -> None:
    running: list[int] = []

    def jobs() -> Iterator[tuple[float, int]]:
        for number in range(20):
            yield 0.0, number
        running.extend(child.pid for child in children() if child.pid)
        raise RuntimeError("the list was cut")

    with pytest.raises(RuntimeError, match="the list was cut"):
        list(ordered_map(sandbox_jobs.after, jobs(), 2, MINUTE))
    assert len(running) == 2
    assert children() == []


@linux
def test_a_child_that_hangs_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        "import sys\n"
        "from tests.shards import sandbox_jobs\n"
        "from shards.media.child import Limits\n"
        "from shards.media.sandbox import ordered_map\n"
        "list(ordered_map(sandbox_jobs.note_and_hang, [(sys.argv[1],)], 1, Limits(600.0)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", code, str(note)], env=environment)
    try:
        wait_for("the child", lambda: note.exists() and note.read_text(), of=parent)
        child = int(note.read_text())
        assert child in children_of(parent.pid)
    finally:
        parent.kill()
        parent.wait()
    wait_for("the end of the child", lambda: not alive(child))


def used(jobs: list[tuple[str, int]], limits: Limits) -> list[Any]:
    """Of one process at a time: its id, or the error's text."""
    answers = list(ordered_map(sandbox_jobs.use, jobs, 1, limits))
    return [str(answer) if isinstance(answer, MediaError) else answer for answer in answers]


def test_one_process_serves_many_jobs() -> None:
    answers = used([("nothing", 0), ("memory", 50), ("files", 10)] * 10, Limits(60.0, 60.0, 200.0))
    assert len(answers) == 30
    assert len(set(answers)) == 1


@linux
def test_a_memory_bomb_costs_one_job_and_the_process_is_replaced() -> None:
    first, bomb, third, fourth = used(
        [("memory", 50), ("memory", 500), ("memory", 50), ("memory", 50)], Limits(60.0, memory_mb=200.0)
    )
    assert bomb == "needed more than 200 MB of memory (corpus.clip_memory_mb)"
    assert first != third == fourth


@linux
def test_a_process_in_which_files_leave_memory_behind_is_replaced_before_a_later_file_pays_for_it() -> None:
    answers = used([("kept memory", 60)] * 6, Limits(60.0, memory_mb=200.0))
    assert all(isinstance(answer, int) for answer in answers)
    assert [answers.count(process) for process in dict.fromkeys(answers)] == [2, 2, 2]


def test_processor_time_is_counted_by_job() -> None:
    spin, pause = ("processor", 600), ("nothing", 0)
    before, endless, after = used([pause, spin, pause], Limits(600.0, cpu_seconds=1.0))
    assert endless == "needed more than 1 s of processor time (corpus.clip_cpu_s)"
    assert before != after
    # Four times 0.6 s and more in one process: none of the jobs needs a whole one.
    spent = list(ordered_map(sandbox_jobs.spin, [(0.6,)] * 4, 1, Limits(600.0, cpu_seconds=1.0)))
    assert len(set(spent)) == 1, spent


def test_open_files_are_limited() -> None:
    assert isinstance(used([("files", 20)], Limits(60.0))[0], int)
    # The limit is on numbers of files: those below the numbers that a child inherits from this process are free.
    assert "Too many open files" in used([("files", 5000)], Limits(60.0))[0]


def test_what_a_process_may_write_to_a_file_is_limited() -> None:
    assert "File too large" in used([("disk", 20)], Limits(60.0))[0]
