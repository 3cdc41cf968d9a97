"""`xdc run` as a whole: a temporary Prefect server, all rounds, and the ways in which it can end."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from flows.cli.running.run import exit_code
from shards.errors import Busy, ConfigError, StageError
from tests.faults.crash import ended, forked, kill_tree
from tests.runs import MakeRun
from xdc_core.cleaning.clean import clean
from xdc_core.graph.run_stage import all_fresh, run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.inspection.verification import verify_run
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run


def environment(home: Path, **more: str) -> dict[str, str]:
    """No server set, and a database of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {"PREFECT_HOME": str(home)} | more


def xdc(home: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    return subprocess.run(command, env=environment(home, **more), capture_output=True, text=True, check=False)


def left_over(home: Path) -> list[str]:
    """Command lines of processes that were started with this Prefect home and still run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"PREFECT_HOME={home}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return [line for line in found if line]


def flow_runs_seen_by_doctor(home: Path, *options: str) -> list[dict[str, str]]:
    """Its findings on flow runs without a final state."""
    done = xdc(home, "doctor", "--json", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return [row for row in json.loads(done.stdout) if row["what"] == "flow run"]


@pytest.mark.slow
def test_a_run_without_a_server_is_done_then_fresh_then_partly_redone(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    first = xdc(tmp_path, "run", run.root)
    assert first.returncode == 0, first.stderr
    assert "train.video of round 0: 128 samples" in first.stderr
    assert "round   clusters of" in first.stdout
    assert "logging" not in first.stderr, "nothing is sent to the server after its end"
    again = xdc(tmp_path, "run", run.root, "--json")
    assert again.returncode == 0
    assert "Everything is fresh: 19 stages." in again.stderr
    assert json.loads(again.stdout)["round"] == 1
    assert xdc(tmp_path, "status", run.root, "--check").returncode == 0

    file = run.root / "xdc.yaml"
    file.write_text(file.read_text().replace("k: {video: 4, audio: 4", "k: {video: 4, audio: 900"))
    refused = xdc(tmp_path, "run", run.root)
    assert refused.returncode == 2
    assert "cluster.k.audio is 900, but there are only 48 clips" in refused.stderr
    assert "Traceback" not in refused.stderr + refused.stdout
    stale = xdc(tmp_path, "report", run.root)
    assert "This report is stale" in stale.stdout
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_a_run_that_retains_one_round_removes_earlier_features_and_makes_again_what_is_needed(
    copy_run: MakeRun, tmp_path: Path
) -> None:
    run = copy_run(rounds=2, retain={"rounds": 1})
    done = xdc(tmp_path, "run", run.root)
    assert done.returncode == 0, done.stderr
    assert "retain: freed " in done.stderr
    left = {path.relative_to(run.root).parts[1] for path in run.root.glob("rounds/*/features/*/data/*.parquet")}
    assert left == {"002"}
    listed = xdc(tmp_path, "status", run.root, "--check")
    assert listed.returncode == 0, listed.stdout
    assert ", 4 cleaned" in listed.stdout
    assert "Everything is fresh" in xdc(tmp_path, "run", run.root).stderr

    shutil.rmtree(run.directory(Node("cluster", "video", 0)))
    again = xdc(tmp_path, "run", run.root)
    assert again.returncode == 0, again.stderr
    assert "extract.video of round 0 was cleaned, and cluster.video of round 0 needs it" in again.stderr
    assert "extract.audio of round 0" not in again.stderr
    assert not list(run.root.glob("rounds/000/features/*/data/*.parquet"))


@pytest.mark.slow
def test_a_run_ends_with_the_same_bytes_although_cleaning_goes_on_and_is_killed_beside_it(
    make_run: MakeRun, worked_run: Run, tmp_path: Path
) -> None:
    run, dice, endings = make_run(), random.Random(0), Counter[int]()
    command = [sys.executable, "-m", "flows.cli", "run", str(run.root)]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(command, env=environment(tmp_path), stdout=output, stderr=output)
        while process.poll() is None:
            cleaning = forked(lambda: clean(open_run(run.root), stale=True), tmp_path / "log")
            if dice.random() < 0.5:
                time.sleep(0.2 * dice.random())
                kill_tree(cleaning)
            endings[ended(cleaning)] += 1
    assert process.returncode == 0, (tmp_path / "output").read_text()
    assert endings.keys() == {0, -signal.SIGKILL}, (endings, (tmp_path / "log").read_text())
    clean(run, stale=True)
    assert not list(run.root.glob("rounds/000/features/*/data/*.parquet"))
    assert all_fresh(run, all_nodes(run.config))
    assert verify_run(run) == []
    for path in worked_run.root.glob("rounds/*/*/*/*"):
        if path.suffix in (".npy", ".safetensors") or (path.suffix == ".parquet" and "labels" in path.parts):
            assert (run.root / path.relative_to(worked_run.root)).read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_ended_run_leaves_a_checkpoint_and_no_process(
    copy_run: MakeRun, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = copy_run(train_clips=10**7)
    command = [sys.executable, "-m", "flows.cli", "run", str(run.root)]
    process = subprocess.Popen(
        command,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    training = run.round_directory(0) / "train"
    deadline = time.monotonic() + 240
    while not list(training.glob(".video.*.partial/metrics.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # As a terminal does it: to the whole group.
    else:
        process.kill()
    _, told = process.communicate(timeout=60)
    assert process.returncode == code
    deadline = time.monotonic() + 30
    while left_over(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_over(tmp_path) == []
    assert list(training.glob(".video.*.partial/checkpoint-*.pt"))
    if number == signal.SIGINT:
        assert "the same command continues from there" in told
        assert "Traceback" not in told
    else:
        # The flow xdc and that of its round: their process ended without writing it into the server's records.
        assert [row["state"] for row in flow_runs_seen_by_doctor(tmp_path)] == ["dead"] * 2
        assert [row["state"] for row in flow_runs_seen_by_doctor(tmp_path, "--repair")] == ["repaired"] * 2
    assert flow_runs_seen_by_doctor(tmp_path) == []
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    done = xdc(tmp_path, "run", run.root, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 1
    assert "the Prefect server at http://127.0.0.1:9/api does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_exit_codes_tell_what_failed() -> None:
    busy, wrong, failed = Busy("x"), ConfigError("x"), StageError("x")
    assert exit_code([busy, busy]) == 3
    assert exit_code([wrong]) == 2
    assert exit_code([failed, wrong]) == 1
    assert exit_code([busy, failed]) == 1
    assert exit_code([]) == 1


@pytest.mark.slow
def test_a_temporary_server_that_does_not_start_says_why_and_where_its_records_are(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_text("This is text, and longer than the sixteen bytes of SQLite's magic number.")
    done = xdc(tmp_path, "doctor", "--json", TMPDIR=str(tmp_path))
    assert done.returncode == 1
    found = next(row for row in json.loads(done.stdout) if row["what"] == "Prefect")
    assert found["state"] == "broken"
    assert "temporary server ended with exit code 3: " in found["text"]
    assert "file is not a database" in found["text"]
    assert f"PREFECT_HOME, {tmp_path}:" in found["text"]
    (log,) = tmp_path.glob("prefect-server-*.log")
    assert str(log) in found["text"]
    assert "Traceback" in log.read_text()


def test_a_run_without_its_corpus_says_so(copy_run: MakeRun, tmp_path: Path) -> None:
    gone = {"path": "../elsewhere/corpus", "videos": "../elsewhere/videos"}
    run = copy_run(corpus=gone)
    expected = f"corpus.path: {tmp_path}/elsewhere/corpus is missing, and corpus.videos, {tmp_path}/elsewhere/videos"
    for command, code in (
        (("run", run.root), 2),
        (("round", run.root), 2),
        (("status", run.root), 0),
        (("report", run.root), 0),
    ):
        done = xdc(tmp_path, *command)
        assert done.returncode == code, done.stderr
        told = "".join((done.stdout + done.stderr).split())
        assert "".join(expected.split()) in told, (command, done.stdout, done.stderr)
        assert "".join(f"{run.root}/xdc.yaml".split()) in told
    assert "This report is stale: shard is not there" in done.stdout
    for node in (SHARD, Node("extract", "video", 0)):
        with pytest.raises(ConfigError, match=re.escape(expected)):
            run_stage(run, node)
