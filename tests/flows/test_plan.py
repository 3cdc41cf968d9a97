"""`xdc plan`, as a person meets it: it tries a sample, says what the run will take, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flows.cli.inspecting.plan import HOLDS, TOO_SMALL, UNSURE, disks
from flows.cli.inspecting.trial import steps_of
from flows.runners.tree_memory import tree_memory
from tests.flows.test_cli import xdc
from tests.places import ROOT
from tests.runs import MakeRun
from tests.shards.media_maker import write_video
from xdc_core.planning.estimate import Range

GIGABYTE = 10**9


@pytest.fixture(scope="module")
def folder_with_broken_files(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """Ten videos, two files that are none, and a text."""
    folder = tmp_path_factory.mktemp("mixed")
    for path in sorted(digits.parent.rglob("*.mp4"))[:10]:
        (folder / path.name).write_bytes(path.read_bytes())
    for name in ("broken-1.mp4", "broken-2.mp4"):
        (folder / name).write_bytes(b"no video" * 100)
    (folder / "notes.txt").write_text("not a video")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith("xdc-plan")]


@pytest.mark.slow
def test_a_plan_of_a_folder_with_broken_files_says_their_share_and_all_stages_and_leaves_nothing(
    make_run: MakeRun, folder_with_broken_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(
        corpus={"path": "corpus", "videos": str(folder_with_broken_files), "clips_per_shard": 100},
        rounds=3,
        runs_on={"executor": "slurm", "device": "cpu", "threads": 1},
    )
    before = files_of(run.root)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    handler = signal.getsignal(signal.SIGTERM)
    code, output = xdc("plan", run.root, "--videos", 12, "--json")
    assert signal.getsignal(signal.SIGTERM) is handler
    made = json.loads(output[output.index("{") :])
    assert code == 0
    assert (made["sources"], made["tried"], made["unusable"], made["unread"]) == (12, 12, 2, 1)
    assert any(line.startswith("damaged 2") or "2 (broken-1" in line for line in made["rejects"])
    assert made["clips"]["low"] <= made["clips"]["middle"] == 10 <= made["clips"]["high"]
    rows = {row["node"]: row for row in made["stages"]}
    assert {name: row["times"] for name, row in rows.items() if name in ("shard", "extract.video", "train.audio")} == {
        "shard": 1,
        "extract.video": 4,
        "train.audio": 3,
    }
    assert {"init.video", "cluster.video", "label.audio", "report"} <= rows.keys()
    assert all(0 <= row["hours"]["low"] <= row["hours"]["middle"] <= row["hours"]["high"] for row in rows.values())
    assert made["hours"]["middle"] >= made["once_hours"]["middle"] + 3 * made["round_hours"]["middle"]
    assert all(row["memory"] > 10**7 for row in rows.values()) or not Path("/proc").exists()
    assert {row["what"]: row["place"] for row in made["disk"]}["features of 4 rounds"] == "run"
    assert "one worker on this machine: divide those of shard, extract and label" in made["notes"][0]
    assert made["disks"][0]["verdict"] == HOLDS
    assert files_of(run.root) == before
    assert left_in(tmp_path / "scratch") == []


@pytest.mark.slow
def test_one_film_has_a_range_because_its_parts_differ(make_run: MakeRun, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    still = np.full((96, 96, 3), 127, np.uint8)
    frames = [still if second < 30 else random.integers(0, 256, still.shape, np.uint8) for second in range(60)]
    (tmp_path / "films").mkdir()
    write_video(
        tmp_path / "films" / "film.mp4",
        frames,
        random.normal(0, 0.1, 60 * 16000).astype(np.float32),
        fps=1,
        sample_rate=16000,
    )
    run = make_run(
        corpus={"path": "corpus", "videos": str(tmp_path / "films"), "clip_seconds": 1.0, "min_seconds": 1.0}
    )
    code, output = xdc("plan", run.root, "--json")
    assert code == 0, output
    made = json.loads(output[output.index("{") :])
    assert (made["sources"], made["tried"], made["unusable"]) == (1, 1, 0)
    assert made["media_hours"]["low"] == made["media_hours"]["high"] == pytest.approx(60 / 3600, rel=0.02)
    assert made["clips"]["middle"] == pytest.approx(60, abs=2)
    clips = next(row for row in made["disk"] if row["what"] == "clips")["bytes"]
    assert clips["low"] < 0.98 * clips["middle"] < clips["middle"] < 0.98 * clips["high"]
    shard = next(row for row in made["stages"] if row["node"] == "shard")["hours"]
    assert shard["low"] < shard["middle"] < shard["high"]


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_plan_leaves_no_folder_and_no_process(
    make_run: MakeRun, digits: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    run = make_run(corpus={"path": "corpus", "videos": str(digits), "clips_per_shard": 100})
    (tmp_path / "scratch").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "scratch"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "flows.cli", "plan", str(run.root), "--videos", "6"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any("shard:" in line for line in lines)  # The stages after it are in progress.
        assert left_in(tmp_path / "scratch")
        time.sleep(0.5)
        process.send_signal(sent)
        said = process.stderr.read()
        assert process.wait() == code, said
    assert left_in(tmp_path / "scratch") == []
    assert "Traceback" not in said
    assert not (run.root / "rounds").exists()


def test_a_disk_that_is_too_small_is_named_with_what_it_needs(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(corpus={"path": "corpus"})
    for name in ("features/video/data/000000.parquet", "embeddings/other.parquet"):  # The second is not planned.
        (file := run.root / "rounds" / "000" / name).parent.mkdir(parents=True)
        file.write_bytes(bytes(1000))
    places = {"corpus": Range(1 * GIGABYTE, 2 * GIGABYTE, 3 * GIGABYTE), "run": Range(0, 0, 0)}
    verdicts = {free: disks(run, places, lambda _, free=free: free)[0] for free in (10**9, 25 * 10**8, 10**10)}
    assert [disk.verdict for disk in verdicts.values()] == [TOO_SMALL, UNSURE, HOLDS]
    assert verdicts[10**9].folders == {"corpus": str(run.corpus), "run": str(run.root.resolve())}
    there = verdicts[10**9].there
    assert there == 1000
    assert verdicts[10**9].need.middle == 2 * GIGABYTE - there


def test_messages_of_progress_become_pairs_of_units_and_seconds() -> None:
    messages = [(0.0, 0, 10, ""), (1.0, 5, 10, ""), (1.5, 5, 10, ""), (3.0, 10, 10, ""), (4.0, 1, 2, "next")]
    assert steps_of(messages, units=20) == ((10, 1.0), (10, 1.5))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"videos": None, "path": "corpus"}, "corpus.videos is not set. A plan is made from the sources"),
        ({"videos": "nowhere", "path": "corpus"}, "which does not exist. A plan is made from the sources"),
    ],
)
def test_a_run_without_its_videos_cannot_be_planned(make_run: MakeRun, changes: dict[str, object], words: str) -> None:
    code, output = xdc("plan", make_run(corpus=changes).root)
    assert (code, words in output) == (2, True)


def test_a_plan_of_no_videos_or_no_run_is_wrong_usage(tmp_path: Path, make_run: MakeRun) -> None:
    assert xdc("plan", make_run().root, "--videos", 0)[0] == 2
    code, output = xdc("plan", tmp_path / "nothing")
    assert (code, "Create a run with: xdc init" in output) == (2, True)


def test_a_sample_without_any_clip_is_an_error_that_says_why(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"no video")
    run = make_run(corpus={"path": "corpus", "videos": str(tmp_path / "videos")})
    code, output = xdc("plan", run.root)
    assert code == 2
    assert "none of the 1 sources that would be tried can be opened" in output
    assert "a.mp4. Try more with --videos" in output


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_the_memory_of_child_processes_is_seen() -> None:
    code = "data = bytearray(100_000_000); print('x', flush=True); input()"
    with (
        tree_memory() as watched,
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
    ):
        assert child.stdout is not None
        child.stdout.readline()
        watched.look()
        child.kill()
    assert watched.peak > 10**8
