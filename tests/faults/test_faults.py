"""Killed anywhere, resumed, compared. The long sweep is `sweep.py`; docs/reliability.md has its table."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from shards.store.build import Identity, Outcome, build
from shards.store.commit import partial_directory, replaced_directory, restore, set_aside, stale_directory
from shards.store.fault import arm
from shards.store.files import new_file, write_text
from shards.store.manifest import read_manifest
from tests.faults.crash import MARK, ended, forked, kill_tree, survivors
from tests.faults.sweep import Sweep, broken_off
from tests.faults.traces import contents, differences, left_over
from tests.places import ROOT
from xdc_core.graph.stages import STAGES

ONE, OTHER = "a" * 64, "b" * 64


def build_killed(target: Path, mark: str, order: str, force: bool = False) -> int:
    """Build in a fork, with a fault armed. Its exit code, or the negative number of the signal that ended it."""
    return ended(forked(lambda: build_here(target, mark, force), target.parent.with_suffix(".log"), order))


def build_here(target: Path, mark: str, force: bool = False) -> bool:
    """A directory of two files, as a stage makes it: what is finished is kept. Whether it was there already."""

    def work(out: Path) -> Outcome:
        for name in ("a.txt", "b.txt"):
            if not (out / name).exists():
                write_text(out / name, name)
        return Outcome(2)

    return build(target, Identity("test", 1, mark), work, force).reused


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at processes through /proc")
def test_a_run_that_is_killed_at_points_of_every_stage_and_at_random_instants_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "tests.faults.sweep", str(tmp_path), "--points", "--sample", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--instants", "3"], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    trials = json.loads((tmp_path / "results.json").read_text())
    assert len(trials) >= 40
    # `data` cuts as `shard` does, and `embed` writes as `extract` does.
    expected = {"stages", "assign", *STAGES} - {"data", "embed"}
    assert {trial["row"].split(" ")[0].split(".")[0] for trial in trials} >= expected
    assert [trial for trial in trials if trial["trouble"]] == []


def test_in_a_normal_run_no_point_does_anything(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "XDC_FAULT"} | {"PYTHONPATH": str(ROOT)}
    code = "from shards.store import fault; fault.fault_point('before', 'x'); print(fault._armed)"
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
    assert build_killed(target, ONE, "kill:1:in discard", force=True) == -signal.SIGKILL
    assert not partial_directory(target, ONE).exists()
    assert not build_here(target, ONE)
    assert left_over(tmp_path) == []


def rot(directory: Path) -> None:
    """Change a byte of a file of a committed directory, not its size."""
    (directory / "a.txt").write_text("A.txt")


@pytest.mark.parametrize("point", ["after set_aside", "before commit", "after commit", "before unlock out"])
def test_what_a_forced_build_that_was_killed_has_replaced_does_not_come_back(tmp_path: Path, point: str) -> None:
    target = tmp_path / "out"
    build_here(target, ONE)
    rot(target)
    assert build_killed(target, ONE, f"kill:1:{point}", force=True) == -signal.SIGKILL
    build_here(target, ONE)
    assert (target / "a.txt").read_text() == "a.txt"
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("between", [ONE, OTHER])
def test_what_was_made_anew_by_force_does_not_come_back_when_that_loses_a_file(tmp_path: Path, between: str) -> None:
    target = tmp_path / "out"
    build_here(target, ONE)
    rot(target)
    build_here(target, between)  # With OTHER the damaged one lies in .stale/ when it is made anew.
    assert build_killed(target, ONE, "kill:1:no such point", force=True) == 0
    (target / "b.txt").unlink()
    assert not build_here(target, ONE)
    assert (target / "a.txt").read_text() == "a.txt"


@pytest.mark.parametrize("point", ["after restore began", "before restore ends", "after restore"])
def test_a_sound_copy_on_its_way_back_is_not_stranded_by_a_damaged_one(tmp_path: Path, point: str) -> None:
    target = tmp_path / "out"
    build_here(target, ONE)
    shutil.copytree(target, stale_directory(target, ONE))
    (target / "b.txt").unlink()
    assert build_killed(target, ONE, f"kill:1:{point}") == -signal.SIGKILL
    if point == "before restore ends":  # As it was left before the damaged one got a name of its own.
        shutil.copytree(replaced_directory(target, ONE), stale_directory(target, ONE), dirs_exist_ok=True)
    assert build_here(target, ONE), "it must have been kept"
    assert sorted(contents(target)) == ["a.txt", "b.txt", "manifest.json"]
    assert left_over(tmp_path) == []


def test_what_was_begun_goes_when_a_directory_comes_back(tmp_path: Path) -> None:
    target = tmp_path / "out"
    build_here(target, ONE)
    build_here(target, OTHER)
    assert build_killed(target, ONE, "kill:1:after rename a.txt", force=True) == -signal.SIGKILL
    assert build_here(target, ONE)
    assert left_over(tmp_path) == []


def test_temporary_files_of_dead_writers_go_with_the_next_writer_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    for _ in range(2):
        code = (
            "import os, signal, sys; from pathlib import Path; from shards.store.files import new_file\n"
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


KILLED = ([], 2, 0)  # Trouble, kills, attempts that had finished before.


@pytest.mark.parametrize(
    ("work", "ends", "wanted"),
    [
        (partial(time.sleep, 600), False, KILLED),
        (int, True, ([], 0, 1)),
        (partial(int, "x"), True, (["by itself"], 0, 0)),
    ],
    ids=["killed", "finished before", "failed"],
)
def test_the_sweep_counts_what_it_killed_and_nothing_else(
    tmp_path: Path, work: Callable[[], object], ends: bool, wanted: tuple[list[str], int, int]
) -> None:
    seconds = []

    def attempt(at: float) -> tuple[int, int]:
        seconds.append(at)
        process = forked(work, tmp_path / "log")
        if ends:
            os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        kill_tree(process)
        return ended(process), len(survivors(process))

    trouble, kills, early = broken_off([0.5, 0.5], 8.0, attempt, tmp_path / "log")
    assert (kills, early) == wanted[1:]
    assert len(trouble) == len(wanted[0])
    assert all("attempt 1 ended by itself with 1: ValueError" in text for text in trouble)
    assert seconds == ([4.0, 2.0] if kills else [4.0]), "a later attempt is killed within what is left"


def test_a_sweep_goes_on_but_for_what_an_older_one_did_not_count(tmp_path: Path) -> None:
    trial = {"row": "label", "point": "before commit", "trouble": [], "seconds": 1.0}
    random = trial | {"row": "stages in one process, random instants"}
    noted = [trial, random | {"point": "000: 1.00, 2.00 s"}, random | {"point": "000: at 0.10", "kills": 3, "early": 1}]
    (tmp_path / "results.json").write_text(json.dumps(noted))
    sweep = Sweep(tmp_path, None, 0)
    assert sweep.done == {("label", "before commit"), (random["row"], "000: at 0.10")}
    sweep.note(str(random["row"]), "001: at 0.50", ["1 processes survived"], time.monotonic(), 1)
    again = Sweep(tmp_path, None, 0)
    assert (random["row"], "001: at 0.50") in again.done
    assert f"| {random['row']} | 4 | 4 | 3 | 75% |" in again.table()
    assert "3 trials, 1 failed. 1 attempts finished before their kill" in again.table()
    assert [*again._draws("a run", 5, (1, 2))] == [*sweep._draws("a run", 5, (1, 2))]


def test_directories_set_aside_without_a_manifest_never_take_each_others_place(tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text(text)
        assert set_aside(tmp_path / "out") is not None
    assert sorted(path.read_text() for path in tmp_path.rglob("mine.txt")) == ["first", "second"]
    assert restore(tmp_path / "out", ONE) is None
