"""A full disk, a read-only one, a missing permission, no more open files, a clock that goes back: told, survived."""

import contextlib
import datetime
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import shards.store.build
from shards.errors import StageError, XdcError
from shards.store.commit import STALE
from shards.store.manifest import list_files, read_manifest
from tests.runs import MakeRun
from xdc_core.graph.run_stage import run_stage
from xdc_core.inspection.verification import verify_run
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run

PROBE = {"protocol": "all", "modality": "audio", "label": "label_speaker", "when": "asked"}
PROBE |= {"finetune": {"epochs": 2, "batch": 8}}
STAGES = [
    SHARD,
    Node("init", "video"),
    Node("extract", "audio", 0),
    Node("cluster", "video", 1),
    Node("label", "audio", 1),
    Node("train", "audio", 0),
    Node("eval", "probe", 1),
    Node("report", None, 1),
]
# What tells of the time, or of how long something took.
TIMED = ("train.log", "metrics.jsonl", "report.json", "report.html")
MiB = 2**20


@pytest.fixture
def disk() -> Iterator[Path]:
    """A file system of 64 MiB of its own, which others may read."""
    place = Path(tempfile.mkdtemp(prefix="xdc-disk-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "none", place], capture_output=True)
    if mounted.returncode:
        place.rmdir()
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)
    place.rmdir()


@pytest.fixture
def run(disk: Path, copy_run: MakeRun, tiny_corpus: Path) -> Run:
    """The run that is worked off, and its corpus, on that disk."""
    corpus = shutil.copytree(tiny_corpus, disk / "corpus")
    made = copy_run(corpus={"path": str(corpus)}, evaluate={"probe": PROBE})
    shutil.copytree(made.root, disk / "run")
    return Run(disk / "run", made.config)


def outcome(run: Run, node: Node) -> dict[str, str]:
    """sha256 of what a stage has made."""
    found = list_files(run.directory(node))
    return {name: entry.sha256 for name, entry in found.items() if name not in TIMED}


def fill(disk: Path, leave: int) -> Path:
    """Leave so many bytes free."""
    status = os.statvfs(disk)
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leave)
    return filler


def refused(run: Run, node: Node, words: str, force: bool = True) -> None:
    """The stage ends with one line that names the trouble and does not advise to build anything anew."""
    with pytest.raises(XdcError) as caught:
        run_stage(run, node, force=force)
    said = str(caught.value)
    assert words in said
    assert "\n" not in said
    assert "--force" not in said, "what is there is not damaged"


@pytest.mark.slow
@pytest.mark.parametrize("node", STAGES, ids=str)
def test_a_disk_that_is_full_is_told_of_and_costs_nothing_but_the_room(run: Run, disk: Path, node: Node) -> None:
    run_stage(run, node, force=True)  # With this configuration: the report has a copy of it.
    before, manifest = outcome(run, node), read_manifest(run.directory(node))
    size = sum(path.stat().st_blocks * 512 for path in run.directory(node).rglob("*") if path.is_file())
    for leave in (0, size // 2 // 4096 * 4096):
        filler = fill(disk, leave)
        refused(run, node, "No space left on device")
        assert (outcome(run, node), read_manifest(run.directory(node))) == (before, manifest)
        filler.unlink()
    # Room again, and nothing there, set aside neither: what was begun is gone on with.
    shutil.rmtree(run.directory(node))
    shutil.rmtree(run.directory(node).parent / STALE, ignore_errors=True)
    assert not run_stage(run, node).reused
    assert outcome(run, node) == before
    assert [finding for finding in verify_run(run) if finding.kind == "damaged"] == []


@pytest.mark.slow
@pytest.mark.parametrize("node", STAGES, ids=str)
def test_a_disk_that_became_read_only_is_told_of_and_what_is_there_is_reused(run: Run, disk: Path, node: Node) -> None:
    run_stage(run, node, force=True)
    before = outcome(run, node)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        refused(run, node, "Read-only file system")
        assert run_stage(run, node).reused
        assert [finding for finding in verify_run(run) if finding.kind == "damaged"] == []
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert not run_stage(run, node, force=True).reused
    assert outcome(run, node) == before


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """This process without root's rights; root ignores modes."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.slow
@pytest.mark.parametrize("node", STAGES[1:], ids=str)
def test_a_missing_permission_is_told_of_with_the_file(run: Run, disk: Path, node: Node) -> None:
    config = run.config.model_copy(update={"corpus": run.config.corpus.model_copy(update={"videos": None})})
    run = Run(run.root, config)
    run_stage(run, node, force=True)  # With this configuration: the report has a copy of it.
    before = outcome(run, node)
    with as_nobody():
        refused(run, node, "Permission denied (")
        assert run_stage(run, node).reused
    os.chmod(run.corpus / "manifest.json", 0)
    with as_nobody():
        refused(run, node, f"Permission denied ({run.corpus}/manifest.json)")
    os.chmod(run.corpus / "manifest.json", 0o644)
    assert outcome(run, node) == before
    run_stage(run, node, force=True)
    assert outcome(run, node) == before


@pytest.mark.parametrize("node", STAGES[1:6], ids=str)
@pytest.mark.parametrize("room", [0, 2, 8])
def test_without_file_handles_a_stage_ends_with_one_line_or_gets_along(
    copy_run: MakeRun, node: Node, room: int
) -> None:
    run = copy_run()
    before, limits = outcome(run, node), resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)  # All below it are taken.
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + room, limits[1]))
    said = ""
    try:
        run_stage(run, node, force=True)
    except XdcError as error:
        said = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not said or "Too many open files" in said
    assert said or room, "without any handle nothing can be done"
    assert "\n" not in said
    assert "--force" not in said
    assert outcome(run, node) == before
    assert not run_stage(run, node, force=True).reused
    assert outcome(run, node) == before


def test_a_file_that_may_not_grow_is_told_of(copy_run: MakeRun) -> None:
    # Like a full disk, where no small one can be mounted: a limit on the size of files.
    run, node = copy_run(), Node("init", "video")
    before, limits = outcome(run, node), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StageError, match=r"File too large.*run the same command again"):
            run_stage(run, node, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert outcome(run, node) == before


def test_a_clock_that_goes_back_changes_nothing_but_the_times(
    copy_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Backwards(datetime.datetime):
        """Every look at the clock is a day earlier than the one before."""

        looks = 0

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Backwards":
            cls.looks += 1
            return cls(2020, 1, 1, tzinfo=tz) - datetime.timedelta(days=cls.looks)

    run, node = copy_run(), Node("label", "video", 1)
    before = outcome(run, node)
    for path in run.root.rglob("*"):
        os.utime(path, (time.time() + 10**8,) * 2)  # Files from a time when the clock was ahead.
    monkeypatch.setattr(shards.store.build.datetime, "datetime", Backwards)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert run_stage(run, node).reused
    assert not run_stage(run, node, force=True).reused
    manifest = read_manifest(run.directory(node))
    assert manifest is not None
    assert manifest.finished < manifest.started
    assert manifest.seconds >= 0, "durations come from a clock that only goes forward"
    assert outcome(run, node) == before
    assert run_stage(run, node).reused
    assert {finding.kind for finding in verify_run(run)} <= {"unfinished"}
