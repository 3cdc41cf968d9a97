"""Killed anywhere, resumed, compared. The long sweep is `sweep.py`; docs/reliability.md has its table."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from crash import MARK, survivors
from traces import contents, differences, left_over

from shards.commit import new_file, partial_directory, read_manifest, restore, set_aside
from shards.fault import arm
from shards.stage import Identity, Outcome, build

ROOT = Path(__file__).resolve().parents[2]
ONE, OTHER = "a" * 64, "b" * 64
# Builds a directory of two files, as a stage does.
BUILD = """
import sys
from pathlib import Path
from shards.commit import write_text
from shards.stage import Identity, Outcome, build

def work(out):
    for name in ("a.txt", "b.txt"):
        if not (out / name).exists():
            write_text(out / name, name)
    return Outcome(2)

build(Path(sys.argv[1]), Identity("test", 1, sys.argv[2]), work)
"""


def build_killed(target: Path, mark: str, order: str) -> int:
    """Build in a process of its own, with a fault armed by the environment. Its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDC_FAULT": order}
    return subprocess.run([sys.executable, "-c", BUILD, str(target), mark], env=environment, check=False).returncode


def build_here(target: Path, mark: str) -> bool:
    """The same here; whether it was there already."""

    def work(out: Path) -> Outcome:
        for name in ("a.txt", "b.txt"):
            with new_file(out / name) as temporary:
                temporary.write_text(name)
        return Outcome(2)

    return build(target, Identity("test", 1, mark), work).reused


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at processes through /proc")
def test_a_run_that_is_killed_at_points_of_every_stage_and_at_random_instants_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    command = [sys.executable, str(ROOT / "tests/faults/sweep.py"), str(tmp_path), "--points", "--sample", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--instants", "3"], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    trials = json.loads((tmp_path / "results.json").read_text())
    assert len(trials) >= 40
    assert {trial["row"].split(" ")[0].split(".")[0] for trial in trials} >= {
        "shard", "init", "extract", "cluster", "label", "train", "eval", "report", "stages",
    }  # fmt: skip
    assert [trial for trial in trials if trial["trouble"]] == []


def test_in_a_normal_run_no_point_does_anything(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "XDC_FAULT"} | {"PYTHONPATH": str(ROOT)}
    code = "from shards import fault; fault.fault_point('before', 'x'); print(fault._armed)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


@pytest.mark.parametrize("order", ["kill", "kill:x:before commit", "kill:1:", "trace:", "explode:1:x"])
def test_an_order_that_would_kill_nothing_is_refused(order: str) -> None:
    with pytest.raises(ValueError, match="XDC_FAULT is"):
        arm(order)


@pytest.mark.parametrize("point", ["before commit", "after commit", "before unlock out", "after rename manifest.json"])
def test_what_a_commit_that_was_killed_left_is_cleared_by_the_next_call(tmp_path: Path, point: str) -> None:
    target = tmp_path / "out"
    forerunner = partial_directory(target, OTHER)
    forerunner.mkdir()
    (forerunner / "half").write_text("of other settings")
    assert build_killed(target, ONE, f"kill:1:{point}") == -signal.SIGKILL
    assert left_over(tmp_path)
    build_here(target, ONE)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert read_manifest(target) is not None
    assert build_here(target, ONE)


@pytest.mark.parametrize("point", ["before rename a.txt", "after rename a.txt", "before rename manifest.json"])
def test_a_build_goes_on_where_it_was_killed(tmp_path: Path, point: str) -> None:
    assert build_killed(tmp_path / "out", ONE, f"kill:1:{point}") == -signal.SIGKILL
    assert build_killed(tmp_path / "out", ONE, "kill:1:no such point") == 0
    assert sorted(contents(tmp_path)) == ["out/a.txt", "out/b.txt", "out/manifest.json"]
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("point", ["before restore", "after restore began", "before restore ends", "after restore"])
@pytest.mark.parametrize("then", [ONE, OTHER, "c" * 64])
def test_of_a_restoring_that_was_killed_nothing_is_lost_whatever_is_asked_for_next(
    tmp_path: Path, point: str, then: str
) -> None:
    target = tmp_path / "out"
    build_here(target, ONE)
    build_here(target, OTHER)
    assert build_killed(target, ONE, f"kill:1:{point}") == -signal.SIGKILL
    assert build_here(target, then) == (then in (ONE, OTHER))
    for mark in (OTHER, ONE, OTHER):
        assert build_here(target, mark), "it must have been kept"
    assert left_over(tmp_path) == []


def test_a_forced_build_that_is_killed_while_it_gives_up_a_partial_does_not_take_the_rest_for_finished(
    tmp_path: Path,
) -> None:
    target = tmp_path / "out"
    assert build_killed(target, ONE, "kill:1:after rename b.txt") == -signal.SIGKILL
    code = BUILD.replace("sys.argv[2]), work)", "sys.argv[2]), work, force=True)")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDC_FAULT": "kill:1:in discard"}
    process = subprocess.run([sys.executable, "-c", code, str(target), ONE], env=environment, check=False)
    assert process.returncode == -signal.SIGKILL
    assert not partial_directory(target, ONE).exists()
    assert not build_here(target, ONE)
    assert left_over(tmp_path) == []


def test_temporary_files_of_dead_writers_go_with_the_next_writer_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    for _ in range(2):
        code = (
            "import os, signal, sys; from pathlib import Path; from shards.commit import new_file\n"
            "with new_file(Path(sys.argv[1])) as temporary:\n"
            "    temporary.write_text('half'); print('here', flush=True); sys.stdin.read()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        (temporary,) = tmp_path.glob(".study.json.*.tmp")
        with new_file(path) as own:
            own.write_text("whole")
        assert temporary.exists()
        process.kill()
        process.communicate()
        with new_file(path) as own:
            own.write_text("whole")
        assert [file.name for file in tmp_path.iterdir()] == ["study.json"]


def test_the_sweep_sees_what_would_be_wrong(tmp_path: Path) -> None:
    for name, text in (("one", "x"), ("other", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(text)
    assert differences(contents(tmp_path / "one"), contents(tmp_path / "other")) == ["a.txt"]
    assert differences(contents(tmp_path / "one"), {}) == ["a.txt"]
    for name in (".out.abc.partial", ".a.txt.1@here.tmp", ".out.lock", ".out.abc.returning", ".corpus.survey.jsonl"):
        (tmp_path / name).touch()
        assert left_over(tmp_path) == [name]
        (tmp_path / name).unlink()
    sleeper = subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: "4194305"}, start_new_session=True)
    try:
        time.sleep(0.2)
        assert survivors(4194305, seconds=0.1) == {sleeper.pid}
    finally:
        sleeper.kill()
        sleeper.wait()
    assert survivors(4194305, seconds=0.1) == set()


def test_directories_set_aside_without_a_manifest_never_take_each_others_place(tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text(text)
        assert set_aside(tmp_path / "out") is not None
    assert sorted(path.read_text() for path in tmp_path.rglob("mine.txt")) == ["first", "second"]
    assert restore(tmp_path / "out", ONE) is None
