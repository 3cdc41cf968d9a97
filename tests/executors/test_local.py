"""The local executor with several workers: their units, their deaths and their errors."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flows.executors.local
import xdc_core.compute.threads
from flows.executors.local import LOCAL, LocalSettings, LocalWorkers
from flows.executors.queue import Queue
from shards.cores import granted_cores
from shards.errors import StageError
from shards.store.executor import IN_PROCESS, Unit, run_units
from shards.store.receipt import UNITS, Receipt, new_shard, receipts_of
from shards.store.units import add_up
from tests.executors.fake_work import SIZES, job_in
from tests.faults.crash import ended, forked
from tests.processes import alive, children_of, wait_for
from xdc_core.config.schema import RunsOn


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A partial directory."""
    made = tmp_path / ".made.0123.partial"
    made.mkdir()
    return made


@pytest.fixture
def two() -> Iterator[LocalWorkers]:
    """An executor with two workers."""
    executor = LOCAL.make(LocalSettings(workers=2), RunsOn(device="cpu"))
    assert isinstance(executor, LocalWorkers)
    yield executor
    executor.close()


def files(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in out.glob("*.txt")}


WHOLE = {f"{shard}.txt": shard * 3 for shard in SIZES}


def test_two_workers_share_the_units_and_the_progress_counts_rejects(two: LocalWorkers, out: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    run_units(two, job_in(out, noted=True, seconds=0.01), SIZES, 1, lambda *args: seen.append(args))
    assert files(out) == WHOLE
    receipts = list(receipts_of(out, SIZES))
    assert len({receipt.notes["processes"] for receipt in receipts} - {os.getpid()}) == 2
    rows, rejects, _ = add_up(receipts, SIZES)
    assert rejects == sum(size > 6 for size in SIZES.values()) > 0
    assert seen[-1] == (rows + rejects, rows + rejects, f"clips, {rejects} rejected")
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_no_worker_is_left_and_the_next_job_finds_new_ones(two: LocalWorkers, out: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        run_units(two, job_in(tmp_path / name), SIZES, 3, lambda *_: None)
        assert files(tmp_path / name) == WHOLE
        assert children_of(two.forker.process) == []


def test_units_of_a_worker_that_dies_are_done_by_others(
    two: LocalWorkers, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trouble = dict.fromkeys(("000000", "000007", "000039"), "die once")
    run_units(two, job_in(out, trouble=trouble, once=str(tmp_path)), SIZES, 2, lambda *_: None)
    assert files(out) == WHOLE
    add_up(receipts_of(out, SIZES), SIZES)
    assert "ended by signal 9" in capsys.readouterr().err


def test_a_unit_that_ends_every_worker_is_named_with_the_last_output(two: LocalWorkers, out: Path) -> None:
    with pytest.raises(StageError) as raised:
        run_units(two, job_in(out, trouble={"000011": "die"}), SIZES, 1, lambda *_: None)
    log = out.parent / "logs" / "fake-of-round-0.worker-"
    assert str(raised.value).startswith(
        "fake of round 0: 3 workers died with 000011. The last one was ended by signal 9 (by a user, or by the system "
        f"because memory ran out). Its last output: a last word; see {log}"
    )
    run_units(two, job_in(out), SIZES, 1, lambda *_: None)
    assert files(out) == WHOLE


def test_an_error_of_a_worker_has_its_host_and_the_file_with_its_traceback(two: LocalWorkers, out: Path) -> None:
    with pytest.raises(StageError, match=r"fake of round 0: ZeroDivisionError: in 000003 .worker on ") as raised:
        run_units(two, job_in(out, trouble={"000003": "raise"}), SIZES, 1, lambda *_: None)
    (log,) = [word.rstrip(")") for word in str(raised.value).split() if word.endswith(".log)")]
    assert os.uname().nodename in str(raised.value)
    assert "raise ZeroDivisionError" in Path(log).read_text()


def test_a_worker_of_another_version_refuses_and_is_not_tried_again(
    two: LocalWorkers, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(out)
    object.__setattr__(job, "version", "0.0.1")
    with pytest.raises(StageError, match=r"has version .* of xdc, and .* started with 0\.0\.1"):
        run_units(two, job, SIZES, 1, lambda *_: None)
    assert files(out) == {}


def test_workers_of_a_directory_that_was_taken_over_fail_and_leave_nothing(two: LocalWorkers, out: Path) -> None:
    def take_over(done: int, total: int, note: str = "") -> None:
        if done > 3 and out.exists():
            os.rename(out, out.with_name("taken"))

    with pytest.raises(StageError, match=r"does not see|another process"):
        run_units(two, job_in(out, seconds=0.01), SIZES, 1, take_over)
    assert not out.exists()
    assert all(WHOLE[name] == text for name, text in files(out.with_name("taken")).items())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_of_the_stage(out: Path, tmp_path: Path, number: signal.Signals) -> None:
    trouble = dict.fromkeys([*SIZES][1:], "wait")

    def extract() -> None:
        executor = LOCAL.make(LocalSettings(workers=2), RunsOn(device="cpu"))
        run_units(executor, job_in(out, trouble=trouble), SIZES, 1, lambda *_: None)

    def family() -> list[int]:
        return [child for forker in children_of(stage) for child in (forker, *children_of(forker))]

    stage = forked(extract, tmp_path / "log")
    wait_for("a receipt", lambda: [*(out / UNITS / "receipts").glob("*.json")])
    wait_for("the second worker", lambda: len(family()) == 3)
    started = family()
    os.kill(stage, number)
    assert ended(stage) == -number, (tmp_path / "log").read_text()
    wait_for("the workers to end", lambda: not any(map(alive, started)))
    assert files(out).keys() < WHOLE.keys()
    run_units(IN_PROCESS, job_in(out), SIZES, 1, lambda *_: None)
    assert files(out) == WHOLE


def test_one_machine_without_gpus_has_no_other_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.executors.local, "gpus_listed", lambda: 0)
    for settings in ({}, {"workers": 1}):
        assert LOCAL.make(LocalSettings(**settings), RunsOn()) is IN_PROCESS


@pytest.mark.parametrize(("threads", "each"), [(None, 4), (3, 3)])
def test_workers_share_the_cores_and_each_has_the_configured_threads(
    out: Path, monkeypatch: pytest.MonkeyPatch, threads: int | None, each: int
) -> None:
    for module in (flows.executors.local, xdc_core.compute.threads):
        monkeypatch.setattr(module, "core_count", lambda: 16)
    runs_on = RunsOn(device="cpu", threads=threads)
    executor: Any = LOCAL.make(LocalSettings(workers=2), runs_on)
    job = job_in(out, runs_on=runs_on.model_dump())
    object.__setattr__(job, "work", f"{__name__}:write_cores")
    run_units(executor, job, SIZES, 1, lambda *_: None)
    executor.close()
    assert set(files(out).values()) == {f"8 cores, {each} threads"}


def write_cores(arguments: dict[str, Any], shards: list[str], advance: Any) -> Iterator[Receipt]:
    """The work of a unit: the cores and threads that its worker has."""
    threads = xdc_core.compute.threads.thread_count(RunsOn(**arguments["runs_on"]))
    return write_text_of(f"{granted_cores()} cores, {threads} threads", arguments, shards)


def write_text_of(text: str, arguments: dict[str, Any], shards: list[str]) -> Iterator[Receipt]:
    """A file with this text per shard."""
    for shard in shards:
        time.sleep(arguments.get("seconds", 0))
        with new_shard(Path(arguments["out"]), shard) as new:
            (new.folder / f"{shard}.txt").write_text(text)
            new.rows = SIZES[shard]
        yield new.stored


def test_workers_share_the_gpus_that_work(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.executors.local, "gpus_listed", lambda: 3)
    monkeypatch.setattr(flows.executors.local, "find_all_gpus", _two_of_three)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-b,6")
    executor: Any = LOCAL.make(LocalSettings(), RunsOn())
    job = job_in(out, seconds=0.01)
    object.__setattr__(job, "gpu", True)
    object.__setattr__(job, "work", f"{__name__}:write_gpu")
    run_units(executor, job, SIZES, 1, lambda *_: None)
    executor.close()
    assert set(files(out).values()) == {"4", "6"}


def _two_of_three(channel: Any) -> int:
    channel.send(([0, 2], ["GPU 1 does not work"]))
    return 0


def write_gpu(arguments: dict[str, Any], shards: list[str], advance: Any) -> Iterator[Receipt]:
    """The work of a unit: the GPU that its worker sees."""
    return write_text_of(os.environ["CUDA_VISIBLE_DEVICES"], arguments, shards)


def test_a_queue_looks_ahead_no_further_than_it_may() -> None:
    looked_at: list[int] = []

    def units() -> Iterator[Unit]:
        for number in range(100):
            looked_at.append(number)
            yield Unit(number, (f"{number:06d}",))

    queue, taken = Queue(units(), workers=2, ahead=20), list[int]()
    while waiting := queue.look_ahead():
        assert len(looked_at) - len(taken) == waiting <= 20
        taken += [unit.number for unit in queue.take(7)]
    assert taken == list(range(100))
