"""What every stage may rely on: reuse, resumption, one builder at a time, and nothing lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shards.errors import Busy, StageError
from shards.store.build import Identity, Outcome, build, reusable
from shards.store.commit import partial_directory, stale_directory
from shards.store.manifest import fingerprint, read_manifest
from tests.places import ROOT

HOLD = """
import sys, time
from pathlib import Path
from shards.store.build import Identity, Outcome, build

def work(out):
    (out / "begun.txt").write_text("by the holder")
    print("holding", flush=True)
    time.sleep(600)
    return Outcome(0)

build(Path(sys.argv[1]), Identity("test", 1, sys.argv[2]), work)
"""


def identity(name: str, **settings: Any) -> Identity:
    return Identity(stage="test", version=1, fingerprint=fingerprint(name), settings=settings)


def writer(text: str, calls: list[str]) -> Callable[[Path], Outcome]:
    """Work that writes one file, and notes that it was called."""

    def work(out: Path) -> Outcome:
        calls.append(text)
        (out / "a.txt").write_text(text)
        return Outcome(rows=len(text), rejects=2, summary={"text": text})

    return work


def forbidden(out: Path) -> Outcome:
    raise AssertionError("there was nothing to do")


@contextmanager
def another_builder(target: Path, mark: str) -> Iterator[subprocess.Popen[str]]:
    """A living process in the middle of building `target`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target), mark], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_build_commits_what_the_work_wrote_and_says_so(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "out"
    who = Identity("test", 3, fingerprint("x"), "audio", 4, inputs={"shard": "abc"}, settings={"k": 5})
    record = build(target, who, writer("hello", []))
    assert (record.stage, record.modality, record.round, record.path) == ("test", "audio", 4, str(target))
    assert (record.reused, record.rows, record.rejects, record.summary) == (False, 5, 2, {"text": "hello"})
    manifest = read_manifest(target)
    assert manifest is not None
    assert (manifest.version, manifest.inputs, manifest.settings) == (3, {"shard": "abc"}, {"k": 5})
    assert manifest.started <= manifest.finished
    assert manifest.seconds == record.seconds >= 0
    assert {"python", "numpy", "pyarrow"} <= set(manifest.versions)
    assert list(manifest.files) == ["a.txt"]


def test_the_same_again_is_reused_without_work(tmp_path: Path) -> None:
    target = tmp_path / "out"
    first = build(target, identity("x"), writer("hello", []))
    before = (target / "a.txt").stat()
    again = build(target, identity("x"), forbidden)
    assert again.reused
    assert (again.rows, again.summary, again.seconds) == (first.rows, first.summary, first.seconds)
    assert (target / "a.txt").stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("damage", ["cut", "removed", "no manifest"])
def test_what_is_damaged_is_built_anew(tmp_path: Path, damage: str) -> None:
    target, calls = tmp_path / "out", list[str]()
    build(target, identity("x"), writer("hello", calls))
    match damage:
        case "cut":
            (target / "a.txt").write_text("hell")
        case "removed":
            (target / "a.txt").unlink()
        case "no manifest":
            (target / "manifest.json").unlink()
    assert reusable(target, fingerprint("x")) is None
    assert not build(target, identity("x"), writer("hello", calls)).reused
    assert (target / "a.txt").read_text() == "hello"
    assert len(calls) == 2


def test_other_settings_build_anew_and_the_old_come_back_without_work(tmp_path: Path) -> None:
    target, calls = tmp_path / "out", list[str]()
    build(target, identity("x"), writer("with x", calls))
    build(target, identity("y"), writer("with y", calls))
    assert (target / "a.txt").read_text() == "with y"
    assert (stale_directory(target, fingerprint("x")) / "a.txt").read_text() == "with x"
    back = build(target, identity("x"), forbidden)
    assert back.reused
    assert back.summary == {"text": "with x"}
    assert (target / "a.txt").read_text() == "with x"
    assert build(target, identity("y"), forbidden).summary == {"text": "with y"}
    assert calls == ["with x", "with y"]


def test_force_works_again_and_from_nothing(tmp_path: Path) -> None:
    target, calls = tmp_path / "out", list[str]()
    build(target, identity("x"), writer("first", calls))
    left = partial_directory(target, fingerprint("x"))
    left.mkdir()
    (left / "half.txt").write_text("of an earlier call")
    record = build(target, identity("x"), writer("second", calls), force=True)
    assert not record.reused
    assert calls == ["first", "second"]
    assert sorted(path.name for path in target.iterdir()) == ["a.txt", "manifest.json"]
    assert (target / "a.txt").read_text() == "second"


def test_work_that_fails_keeps_what_it_had_for_the_next_call_with_the_same_fingerprint(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def fail(out: Path) -> Outcome:
        (out / "part-0.txt").write_text("done")
        raise RuntimeError("power cut")

    seen: list[list[str]] = []

    def finish(out: Path) -> Outcome:
        seen.append(sorted(path.name for path in out.iterdir()))
        (out / "part-1.txt").write_text("done too")
        return Outcome(2)

    with pytest.raises(RuntimeError, match="power cut"):
        build(target, identity("x"), fail)
    assert not target.exists()
    build(target, identity("x"), finish)
    assert seen == [["part-0.txt"]]
    assert sorted(path.name for path in target.glob("part-*")) == ["part-0.txt", "part-1.txt"]


def test_a_failed_build_leaves_the_committed_directory_in_place(tmp_path: Path) -> None:
    target = tmp_path / "out"
    build(target, identity("x"), writer("good", []))

    def fail(out: Path) -> Outcome:
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        build(target, identity("y"), fail)
    assert (target / "a.txt").read_text() == "good"
    assert build(target, identity("x"), forbidden).reused


def test_other_fingerprints_do_not_see_a_partial_and_their_commit_removes_it(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def fail(out: Path) -> Outcome:
        (out / "part-0.txt").write_text("with x")
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        build(target, identity("x"), fail)
    left = partial_directory(target, fingerprint("x"))
    assert left.is_dir()
    build(target, identity("y"), writer("with y", []))
    assert not left.exists()
    assert not (target / "part-0.txt").exists()


def test_nothing_but_the_directory_is_left_beside_it(tmp_path: Path) -> None:
    build(tmp_path / "out", identity("x"), writer("hello", []))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_trouble_of_the_machine_is_a_stage_error_that_names_the_place(tmp_path: Path) -> None:
    def full(out: Path) -> Outcome:
        raise OSError(28, "No space left on device", str(out / "a.txt"))

    with pytest.raises(StageError, match=r"No space left on device \(.*a\.txt\)"):
        build(tmp_path / "out", identity("x"), full)


def test_while_another_process_builds_it_is_busy_and_names_the_process(tmp_path: Path) -> None:
    target, other = tmp_path / "out", tmp_path / "other"
    with another_builder(target, fingerprint("x")) as process:
        with pytest.raises(Busy, match=rf"out is being built by another process \(pid {process.pid}\)"):
            build(target, identity("x"), forbidden)
        assert not build(other, identity("x"), writer("not in the way", [])).reused


def test_a_killed_builder_leaves_its_partial_and_no_lock(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with another_builder(target, fingerprint("x")) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        found: list[str] = []

        def work(out: Path) -> Outcome:
            found.append((out / "begun.txt").read_text())
            return Outcome(1)

        assert not build(target, identity("x"), work).reused
    assert found == ["by the holder"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_committed_directory_is_reused_while_another_process_builds_a_newer_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    build(target, identity("x"), writer("hello", []))
    with another_builder(target, fingerprint("y")):
        assert build(target, identity("x"), forbidden).reused
