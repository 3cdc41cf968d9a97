"""The executor `slurm` with a real Slurm of two nodes: whatever dies, the bytes in the end are those of a plain run.

A worker is stopped by `XDC_FAULT`, which Slurm hands on to the tasks with the rest of the environment, before the
receipt of its second shard. So it is certain what dies in the middle of what.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.executors.registry import check_executor
from flows.executors.slurm.executor import Slurm
from flows.executors.slurm.settings import SlurmSettings
from shards.errors import ConfigError, StageError
from shards.progress import Progress, silent
from shards.store.build import Record
from shards.store.executor import Job, Unit, uncounted
from shards.store.units import begin_units
from tests.engines.slurm_cluster import SlurmCluster
from tests.faults.traces import contents, differences, left_over
from tests.flows.test_cli import xdc
from tests.places import ROOT
from tests.processes import PATIENCE_S, wait_for
from tests.runs import MakeRun
from tests.warm import warm
from xdc_core.config.schema import RunsOn
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run

pytestmark = [pytest.mark.engines, pytest.mark.slow]
EXTRACT = Node("extract", "video", 0)
SETTINGS = SlurmSettings(cpus=1, tasks=2)  # Of three shards the first task does two.
STOPPED_AT_SECOND = "stop:1:before receipt 000001"
COORDINATOR = """
from flows.executors.slurm.executor import Slurm
from flows.executors.slurm.settings import SlurmSettings
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import open_run
run_stage(open_run(sys.argv[1]), Node("extract", "video", 0), executor=Slurm(SlurmSettings(cpus=1, tasks=2)))
"""


@pytest.fixture
def run(copy_run: MakeRun) -> Run:
    """A run whose features of video must be computed again: the settings of a set aside directory are others."""
    made = copy_run()
    (made.directory(EXTRACT) / "manifest.json").unlink()
    return made


def extract(run: Run, settings: SlurmSettings = SETTINGS, progress: Progress = silent) -> Record:
    return run_stage(run, EXTRACT, progress=progress, executor=Slurm(settings))


def assert_as_without_slurm(run: Run, plain: Run, cluster: SlurmCluster) -> None:
    """Same bytes; nothing left over on the disk or in Slurm's queue."""
    assert differences(contents(run.directory(EXTRACT)), contents(plain.directory(EXTRACT))) == []
    assert left_over(run.root) == []
    assert queue(cluster) == []


def queue(cluster: SlurmCluster) -> list[str]:
    """Jobs that have not ended."""
    wait_for("ended tasks to be completed", lambda: "COMPLETING" not in cluster.call("squeue", "-h", "-o", "%T"))
    return cluster.call("squeue", "-h", "-o", "%j %T").splitlines()


@pytest.fixture
def arrays(cluster: SlurmCluster) -> Callable[[], set[str]]:
    """Returns the numbers of all arrays that were submitted since, ended or not."""

    def known() -> set[str]:
        return set(cluster.call("squeue", "-h", "--states=all", "-o", "%F").split())

    before = known()
    return lambda: known() - before


def slow_job(folder: Path, count: int, seconds: float) -> tuple[Job, list[Unit]]:
    """A job of so many shards, each of which takes so long, and its units."""
    out, shards = folder / "out", [f"{number:06d}" for number in range(count)]
    out.mkdir()
    begin_units(out, shards)
    work = "tests.engines.slow_work:write_shards"
    job = Job("a test", work, {"out": str(out), "seconds": seconds}, str(out), str(folder / "logs"), "torch")
    return job, [Unit(number, (shard,)) for number, shard in enumerate(shards)]


@contextmanager
def node_killed(cluster: SlurmCluster) -> Iterator[None]:
    """Kill the node whose worker is the first to be stopped, and let no other worker be stopped. It is back after."""

    def kill() -> str:
        wait_for("a worker to be stopped", cluster.stopped)
        del os.environ["XDC_FAULT"]
        (worker,) = cluster.stopped()
        node = str(cluster.node_of(worker))
        cluster.kill_node(node)
        return node

    os.environ["XDC_FAULT"] = STOPPED_AT_SECOND
    with ThreadPoolExecutor(1) as thread:
        killed = thread.submit(kill)
        yield
        cluster.start_node(killed.result(0))


def test_features_are_those_of_one_process(cluster: SlurmCluster, run: Run, worked_run: Run) -> None:
    counts = []
    extract(run, progress=lambda done, total, note="": counts.append((done, total)))
    assert counts[-1] == (48, 48)
    assert_as_without_slurm(run, worked_run, cluster)


@pytest.mark.engines_long
def test_a_node_that_dies_in_the_middle_costs_a_second_array_and_no_byte(
    cluster: SlurmCluster, run: Run, worked_run: Run, arrays: Callable[[], set[str]]
) -> None:
    with node_killed(cluster):
        extract(run)
    assert len(arrays()) == 2
    assert_as_without_slurm(run, worked_run, cluster)


@pytest.mark.engines_long
def test_a_node_that_dies_while_videos_are_cut_changes_no_byte_of_the_corpus(
    cluster: SlurmCluster, make_run: MakeRun, tiny_corpus: Path
) -> None:
    run = make_run(corpus={"path": "corpus"})
    with node_killed(cluster):
        run_stage(run, SHARD, executor=Slurm(SETTINGS))
    assert differences(contents(run.corpus), contents(tiny_corpus)) == []
    assert left_over(run.root) == []
    assert queue(cluster) == []


@pytest.mark.engines_long
def test_a_killed_stage_started_again_cancels_its_array_and_goes_on(
    cluster: SlurmCluster, run: Run, worked_run: Run, arrays: Callable[[], set[str]]
) -> None:
    coordinator = warm(COORDINATOR, run.root, env=os.environ | {"XDC_FAULT": STOPPED_AT_SECOND})
    wait_for("a worker to be stopped", cluster.stopped, of=coordinator)
    coordinator.kill()
    assert coordinator.wait(PATIENCE_S) == -signal.SIGKILL, coordinator.communicate()
    (earlier,) = arrays()
    first: list[int] = []
    extract(run, progress=lambda done, total, note="": first.append(done))
    assert first[0] >= 16, "the shards that were stored before are not done again"
    assert "CANCELLED" in cluster.call("squeue", "-h", "--states=all", f"--jobs={earlier}", "-o", "%T")
    assert_as_without_slurm(run, worked_run, cluster)


@pytest.mark.engines_long
def test_ctrl_c_cancels_the_array_and_the_same_command_goes_on(
    cluster: SlurmCluster, copy_of: MakeRun, run: Run, worked_run: Run
) -> None:
    own = copy_of(run, runs_on={"executor": "slurm", "executor_settings": {"cpus": 1, "tasks": 2}})
    command = [sys.executable, "-m", "flows.cli", "stage", "extract", own.root, "--modality", "video", "--round", "0"]
    stage = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"XDC_FAULT": STOPPED_AT_SECOND})
    wait_for("a worker to be stopped", cluster.stopped, of=stage)
    stage.send_signal(signal.SIGINT)
    assert stage.wait(PATIENCE_S) != 0
    wait_for("the array to end", lambda: queue(cluster) == [])
    subprocess.run(command, cwd=ROOT, check=True, timeout=PATIENCE_S)
    assert_as_without_slurm(own, worked_run, cluster)


@pytest.mark.engines_long
def test_a_task_near_its_time_limit_ends_after_a_shard_and_another_does_the_rest(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    job, units = slow_job(tmp_path, 13, seconds=4)
    stored: list[str] = []
    # The limit is a minute, the shortest there is; Slurm sends SIGTERM 20 s before, or up to a minute earlier.
    limited = Slurm(SlurmSettings(cpus=1, tasks=1, time="1", grace=20))
    limited.run(job, units, lambda receipt: stored.append(receipt.shard), uncounted)
    shards = [shard for unit in units for shard in unit.shards]
    assert sorted(stored) == shards
    logs = [log.read_text().splitlines() for log in sorted((tmp_path / "logs").glob("slurm-*.log"))]
    done = [[line.split(":")[0] for line in lines if line.endswith(" rejects")] for lines in logs]
    assert len(done) > 1
    assert [shard for task in done for shard in task] == shards, "none twice, in order"
    assert queue(cluster) == []


@pytest.mark.engines_long
def test_a_stage_that_waits_in_the_queue_says_so(cluster: SlurmCluster, tmp_path: Path) -> None:
    job, units = slow_job(tmp_path, 1, seconds=0)
    shown: list[str] = []
    later = Slurm(SlurmSettings(cpus=1, options=("--begin=now+5",)))
    later.run(job, units, lambda receipt: None, lambda good, rejected, waiting="": shown.append(waiting))
    assert shown[0] == "Slurm: 1 pending begintime"


@pytest.mark.engines_long
def test_an_error_of_a_worker_ends_the_stage_and_names_host_and_log(
    cluster: SlurmCluster, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Slurm.run
    monkeypatch.setattr(Slurm, "run", lambda self, job, *others: plain(self, replace(job, version="0.0.1"), *others))
    with pytest.raises(StageError, match=r"version .* of xdc, and the stage extract.video.* with 0\.0\.1") as raised:
        extract(run)
    assert "worker on xdc-slurm" in str(raised.value)
    (log,) = {word.strip("()") for word in str(raised.value).split() if word.strip("()").endswith(".log")}
    assert "version" in Path(log).read_text()
    assert queue(cluster) == []


@pytest.mark.engines_long
def test_tasks_that_store_nothing_end_the_stage_with_their_output(cluster: SlurmCluster, run: Run) -> None:
    with pytest.raises(StageError, match="2 Slurm arrays in a row stored nothing; 3 shards are missing") as raised:
        extract(run, SlurmSettings(cpus=1, tasks=1, tries=2, python="/no/python"))
    assert "FAILED" in str(raised.value)
    assert "/no/python: not found" in str(raised.value)


@pytest.mark.engines_long
def test_what_slurm_refuses_is_said_in_its_words(cluster: SlurmCluster, run: Run) -> None:
    with pytest.raises(StageError, match=r"sbatch: Invalid --begin.*--begin=never.*runs_on.executor_settings"):
        extract(run, SlurmSettings(cpus=1, options=("--begin=never",)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"partition": "gpu"}, r"no partition gpu. There are: main\."),
        ({"cpus": 64}, "cannot run a task with .*--cpus-per-task=64: .*configuration is not available"),
        ({"gpus": 1}, r"--gres=gpu:1: .*gres.* specification"),
        ({"partion": "main"}, "partion: Extra inputs are not permitted"),
        ({"tasks": 0}, "tasks: Input should be greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_said_before_work_starts(cluster: SlurmCluster, settings: dict[str, Any], said: str) -> None:
    right = {"partition": "main", "tasks": 4, "cpus": 1}
    check_executor(RunsOn(executor="slurm", executor_settings=right))
    with pytest.raises(ConfigError, match=said) as raised:
        check_executor(RunsOn(executor="slurm", executor_settings=right | settings))
    assert "\n" not in str(raised.value)


def test_features_of_new_clips_are_computed_by_slurms_tasks_with_the_bytes_of_a_local_run(
    cluster: SlurmCluster, copy_run: MakeRun, digits: Path, tmp_path: Path, arrays: Callable[[], set[str]]
) -> None:
    settings = {"executor": "slurm", "executor_settings": {"cpus": 1, "tasks": 2}}
    run = copy_run(runs_on=settings)
    for name, of in (("there", run), ("local", copy_run())):
        code, output = xdc("embed", of.root, digits, "--out", tmp_path / name, "--modality", "video")
        assert code == 0, output
    there, local = open_run(tmp_path / "there"), open_run(tmp_path / "local")
    assert differences(contents(there.directory(EXTRACT)), contents(local.directory(EXTRACT))) == []
    assert arrays(), "Slurm was asked"
