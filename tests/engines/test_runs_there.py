"""Runs on a bucket: a stage whose server is killed and comes back, and rounds that stay while the corpus grows."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.runners.forked import TORCH, Children
from shards.corpus.cut import CLIPS
from shards.corpus.generation import as_read
from shards.objects.bucket import Bucket
from shards.objects.generation import read_current, unused_tars
from shards.store.manifest import read_manifest
from tests.engines.seaweed import BUCKET, Seaweed, copy_there, kill_under
from tests.engines.test_object_stores import sums
from tests.executors.test_local_stages import stopped_workers
from tests.places import ROOT
from tests.runs import MakeRun
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.state import node_state
from xdc_core.inspection.verification import verify_run
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run

pytestmark = [pytest.mark.engines, pytest.mark.slow]
STAGE = """
import sys
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import Node
from xdc_core.runs.run import open_run
if __name__ == "__main__":
    run_stage(open_run(sys.argv[1]), Node(sys.argv[2], "video", 0))
"""


@pytest.mark.parametrize(
    ("stage", "point"), [("extract", "after begin"), ("train", "after removal checkpoint-00000002-*.pt")]
)
def test_a_stage_under_which_the_server_is_killed_and_started_again_ends_with_the_bytes_of_a_local_disk(
    s3: Seaweed, tiny_corpus: Path, copy_run: MakeRun, worked_run: Run, tmp_path: Path, stage: str, point: str
) -> None:
    run = copy_run(
        corpus={"path": copy_there(s3, tiny_corpus, stage), "videos": None}, train_workers=1, extract_workers=1
    )
    run_stage(run, SHARD)
    shutil.rmtree(run.directory(Node(stage, "video", 0)))
    (tmp_path / "stage.py").write_text(STAGE)
    words, log = [sys.executable, str(tmp_path / "stage.py"), str(run.root), stage], tmp_path / "log"
    with log.open("ab") as file:
        environment = {**os.environ, "XDC_FAULT": f"stop:1:{point}"}
        job = subprocess.Popen(words, stdout=file, stderr=file, cwd=ROOT, env=environment)
    kill_under(s3, job, log, 5)
    assert sums(run) == sums(worked_run)


def test_a_round_that_stays_reads_the_generation_that_it_had_when_the_corpus_in_the_bucket_grows(
    s3: Seaweed, digits: Path, copy_run: MakeRun, worked_run: Run, tmp_path: Path
) -> None:
    videos = Path(shutil.copytree(digits.parent, tmp_path / "digits")) / digits.name
    url = f"s3://{BUCKET}/grown"
    run = copy_run(corpus={"path": url, "videos": str(videos), "append": True})
    run_stage(run, SHARD)
    before, first = sums(run), read_current(Bucket(url))
    assert before == sums(worked_run)
    header, *rows = videos.read_text(encoding="utf-8").splitlines()
    name = rows[0].split(",")[header.split(",").index("path")]
    shutil.copy(videos.parent / name, videos.parent / "videos" / "one-more.mp4")
    rows.append(rows[0].replace(name, "videos/one-more.mp4"))
    videos.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    record = run_stage(run, SHARD)
    now = read_current(Bucket(url))
    assert (record.rows, first != now) == (49, True)
    extract = Node("extract", "video", 0)
    fingerprints = Fingerprints(run)
    assert [node_state(run, Node(each, "video", 0), fingerprints)[0] for each in ("extract", "train")] == ["fresh"] * 2
    assert not run_stage(run, extract, force=True).reused
    manifest, old = (read_manifest(each.directory(extract)) for each in (run, worked_run))
    assert manifest is not None
    assert old is not None
    assert (manifest.rows, manifest.fingerprint, manifest.files) == (old.rows, old.fingerprint, old.files)
    assert not [finding for finding in verify_run(run) if finding.kind in ("damaged", "unchecked")]


@pytest.mark.parametrize("point", ["before upload *.tar", "after upload *.tar", "after receipt 00000*"])
def test_one_of_two_workers_that_is_killed_while_it_cuts_into_a_bucket_changes_no_byte(
    s3: Seaweed, digits: Path, copy_run: MakeRun, worked_run: Run, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    url = f"s3://{BUCKET}/workers-{point.split(maxsplit=2)[0]}-{point.split(maxsplit=2)[1]}"
    run = copy_run(corpus={"path": url, "videos": str(digits), "workers": 1}, executor_settings={"workers": 2})
    monkeypatch.setenv("XDC_FAULT", f"stop:1:{point}")
    children, killed = Children(), list[int]()
    server = children.server(TORCH).process_id
    with contextlib.closing(children), ThreadPoolExecutor(1) as thread:
        cutting = thread.submit(children.run_stage, run, SHARD)
        while not cutting.done():  # Every worker stops there: those of the survey, and those that come later, go on.
            for worker in stopped_workers(server):
                cuts = any(run.corpus.parent.glob(f".{run.corpus.name}.*.partial/{CLIPS}"))
                os.kill(worker, signal.SIGKILL if cuts and not killed else signal.SIGCONT)
                killed += [worker] if cuts else []
            time.sleep(0.05)
        cutting.result()
    assert killed
    assert as_read(run.corpus) == as_read(worked_run.corpus)
    assert unused_tars(Bucket(url)) == []
