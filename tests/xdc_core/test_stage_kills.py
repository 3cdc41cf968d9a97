"""kill -9 in the middle of every stage: the next call goes on and leaves the same bytes as if nothing had happened."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shards.store.commit import partial_directory
from shards.store.manifest import read_manifest
from tests.places import ROOT
from tests.runs import MakeRun
from tests.xdc_core.stage_process import start
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.state import node_state
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

# What must be there before the kill: the partial directory alone, or something that was finished in it.
STAGES = [
    (Node("init", "video"), ""),
    (Node("extract", "video", 0), "data/000000.parquet"),
    (Node("cluster", "audio", 0), ""),
    (Node("label", "audio", 1), "data/000000.parquet"),
    (Node("train", "audio", 0), "checkpoint-*.pt"),
    (Node("report", None, 1), ""),
]


def killed(run: Run, node: Node, wait_for: str) -> Path:
    """Start a stage in a process of its own and kill it once `wait_for` is there. Returns the partial directory."""
    wanted = Fingerprints(run).of(node)
    assert wanted is not None
    partial = partial_directory(run.directory(node), wanted)
    for _ in range(5):
        shutil.rmtree(run.directory(node), ignore_errors=True)
        process = start(run, node)
        deadline = time.monotonic() + 120
        while not (any(partial.glob(wait_for)) if wait_for else partial.exists()) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.kill()
        said = process.communicate()[1]
        if process.returncode == -signal.SIGKILL:
            return partial
        assert process.returncode == 0, said  # It was quicker than we were: once more.
    raise AssertionError(f"{node} ended before it could be killed, five times")


def contents(run: Run, node: Node) -> dict[str, bytes]:
    """The bytes of a node's files, without what tells of time and place."""
    found = {}
    for path in sorted(path for path in run.directory(node).rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in data.splitlines()]
            data = json.dumps([{**line, "clips_per_s": None} for line in lines]).encode()
        if path.name in ("manifest.json", "train.log"):
            data = b""
        if path.name.startswith("report."):
            data = re.sub(rb'("run": ?"|<title>|<h1>)%b' % run.root.name.encode(), rb"\1NAME", data)
            # The folder of the sources is relative to the page, and copies of a run are at other depths.
            data = re.sub(rb'"root":"\.\./[^"]*', b'"root":"PLACE', data)
        found[path.name] = data
    return found


@pytest.mark.parametrize(("node", "wait_for"), STAGES, ids=[node.stage for node, _ in STAGES])
def test_a_stage_that_was_killed_goes_on_and_ends_with_the_same_bytes(
    copy_run: MakeRun, worked_run: Run, node: Node, wait_for: str
) -> None:
    # Decoding in another process makes extraction slow enough to be met in the middle; features stay the same.
    run = copy_run(extract_workers=int(node.stage == "extract"))
    partial = killed(run, node, wait_for)
    assert partial.is_dir()
    assert read_manifest(run.directory(node)) is None
    assert node_state(run, node, Fingerprints(run)) == ("partial", "will be continued")

    survivors = {path: path.stat().st_ino for path in partial.glob("data/[0-9]*.parquet")}
    record = run_stage(run, node)
    assert not record.reused
    for path, number in survivors.items():  # What was finished before the kill was not made again.
        assert (run.directory(node) / path.relative_to(partial)).stat().st_ino == number
    assert contents(run, node) == contents(worked_run, node)
    left = [path.name for path in run.directory(node).parent.iterdir() if path.name.startswith(".")]
    assert [name for name in left if name != ".stale"] == []
    assert node_state(run, node, Fingerprints(run)) == ("fresh", "")
    assert run_stage(run, node).reused


def test_an_evaluation_that_was_killed_goes_on_and_ends_with_the_same_numbers(copy_run: MakeRun) -> None:
    tuned = {"epochs": 3, "batch": 8, "dropout": 0.2}
    probe = {"protocol": "all", "modality": "audio", "label": "label_speaker", "seeds": 2, "finetune": tuned}
    node, runs = Node("eval", "probe", 1), [copy_run(evaluate={"probe": probe}) for _ in range(2)]
    partial = killed(runs[0], node, "test-*/checkpoint-*.pt")
    assert read_manifest(runs[0].directory(node)) is None
    assert partial.is_dir()
    for run in runs:
        run_stage(run, node)
    ends = [json.loads((run.directory(node) / "results.json").read_text())["trials"] for run in runs]
    assert ends[0] == ends[1]
    names = ("results.json", "results.parquet", "predictions", "trials", "manifest.json")
    assert {path.name for path in runs[0].directory(node).iterdir()} == set(names)


def test_a_fine_tuning_that_is_finished_is_not_done_again_when_it_was_killed_before_it_was_written(
    copy_run: MakeRun,
) -> None:
    probe = {"protocol": "all", "modality": "audio", "label": "label_speaker", "finetune": {"epochs": 2, "batch": 8}}
    run, node = copy_run(evaluate={"probe": probe}), Node("eval", "probe", 1)
    for point in ("before rename test-0.parquet", "before rename test-0.json", "before removal test-0"):
        process = start(run, node, os.environ | {"XDC_FAULT": f"kill:1:{point}"})
        said = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, said
    notes: list[str] = []
    run_stage(run, node, progress=lambda done, total, note="": notes.append(note))
    assert notes
    assert not [note for note in notes if note.startswith("epochs")]
    names = {"results.json", "results.parquet", "predictions", "trials", "manifest.json"}
    assert {path.name for path in run.directory(node).iterdir()} == names


def test_wrong_arguments_are_told_without_a_traceback(worked_run: Run, tmp_path: Path) -> None:
    def call(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-m", "xdc_core", *arguments], cwd=ROOT, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    code, said = call()
    assert (code, "python -m xdc_core STAGE RUN [MODALITY] [ROUND]" in said.splitlines()) == (2, True)
    code, said = call("trian", str(worked_run.root), "video", "0")
    assert (code, said.startswith("there is no stage 'trian'")) == (2, True)
    code, said = call("train", str(worked_run.root), "vdeo", "0")
    assert (code, "no node train.vdeo of round 0" in said) == (2, True)
    code, said = call("train", str(tmp_path / "none"), "video", "0")
    assert (code, "xdc init" in said) == (2, True)
