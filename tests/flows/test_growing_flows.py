"""A flow beside an append: the round that it has begun is finished with the clips with which it began."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shards.corpus.generation import read_as
from shards.store.manifest import read_manifest
from tests.flows.prefect_server import ROOT, PrefectServer
from tests.runs import MakeRun
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import all_fresh, run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.node import SHARD, Node

STOPPED_IN_CLUSTERING = "stop:1:before rename kmeans.json"


def stopped(home: Path) -> list[int]:
    """Stopped processes with this Prefect home."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if state == "T" and f"PREFECT_HOME={home}\0".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_a_round_is_finished_although_clips_are_appended_in_its_middle(
    server: PrefectServer, copy_run: MakeRun, tiny_corpus: Path, digits: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    shutil.copytree(tiny_corpus, place / "corpus")
    (place / "digits").mkdir()
    (place / "digits" / "videos").symlink_to(digits.parent / "videos")
    videos = Path(shutil.copyfile(digits, place / "digits" / "manifest.csv"))
    run = copy_run(corpus={"path": str(place / "corpus"), "videos": str(videos), "append": True})
    shutil.rmtree(run.round_directory(1))
    first = read_manifest(run.corpus)
    assert first is not None
    environment = server.environment | {"XDC_FAULT": STOPPED_IN_CLUSTERING, "PREFECT_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "flows.cli", "round", str(run.root), "--round", "1"]
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        flow = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        while not stopped(tmp_path / "home"):
            assert flow.poll() is None, log.read_text()
            time.sleep(0.05)
        header, _, *rows = videos.read_text(encoding="utf-8").splitlines()
        videos.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
        assert not run_stage(run, SHARD).reused
        videos.write_text("\n".join([header, *rows[1:], ""]), encoding="utf-8")  # For which no append is made yet.
        while flow.poll() is None:
            for process in stopped(tmp_path / "home"):
                os.kill(process, signal.SIGCONT)
            time.sleep(0.05)
    assert flow.returncode == 0, log.read_text()
    label = read_manifest(run.directory(Node("label", "audio", 1)))
    assert label is not None
    assert label.inputs["shard"] == read_as(first)
    begun = Fingerprints(run, read_as(first))
    assert all_fresh(run, all_nodes(run.config), begun)
