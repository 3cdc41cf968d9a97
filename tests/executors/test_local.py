"""The local executor with several workers: their units, their deaths and their errors."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.executors.local import LOCAL, LocalSettings, LocalWorkers
from shards.errors import StageError
from shards.store.executor import IN_PROCESS, run_units
from shards.store.receipt import UNITS, receipts_of
from shards.store.units import add_up
from tests.executors.fake_work import SIZES, job_in
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
    stage = os.fork()
    if stage == 0:
        executor = LOCAL.make(LocalSettings(workers=2), RunsOn(device="cpu"))
        run_units(executor, job_in(out, seconds=0.05), SIZES, 1, lambda *_: None)
        os._exit(0)
    wait_for("a receipt", lambda: [*(out / UNITS / "receipts").glob("*.json")])
    family = [child for forker in children_of(stage) for child in (forker, *children_of(forker))]
    assert len(family) == 3
    os.kill(stage, number)
    os.waitpid(stage, 0)
    wait_for("the workers to end", lambda: not any(map(alive, family)), 5)
    assert files(out).keys() < WHOLE.keys()
    run_units(IN_PROCESS, job_in(out), SIZES, 1, lambda *_: None)
    assert files(out) == WHOLE


def test_one_machine_without_gpus_has_no_other_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in ({}, {"workers": 1}):
        assert LOCAL.make(LocalSettings(**settings), RunsOn()) is IN_PROCESS


def test_workers_share_the_gpus_that_work(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import flows.executors.local as local

    monkeypatch.setattr(local, "gpus_listed", lambda: 3)
    monkeypatch.setattr(local, "find_all_gpus", _two_of_three)
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


def write_gpu(arguments: dict[str, Any], shards: list[str], advance: Any) -> Any:
    """The work of a unit: the GPU that its worker sees."""
    from shards.store.receipt import new_shard

    for shard in shards:
        time.sleep(arguments["seconds"])
        with new_shard(Path(arguments["out"]), shard) as new:
            (new.folder / f"{shard}.txt").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
            new.rows = SIZES[shard]
        yield new.stored
