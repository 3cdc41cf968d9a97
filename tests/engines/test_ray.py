"""The executor `ray` on a real cluster of two nodes: nodes and coordinators die, and the bytes stay the same."""

import json
import os
import platform
import shutil
import signal
import subprocess
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from shards.store.receipt import RECEIPTS, UNITS
from tests.engines.ray_cluster import ADDRESS, CLIENT, ENVIRONMENT, OTHER, THIRD, RayCluster
from tests.faults.traces import contents, differences, left_over
from tests.flows.test_cli import xdc
from tests.processes import PATIENCE_S, children_of, wait_for
from tests.runs import changed, write_run
from tests.sharing import made_once
from xdc_core.config.load import parse_config
from xdc_core.config.schema import Config
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run

pytestmark = [pytest.mark.engines, pytest.mark.slow]
EXTRACT = Node("extract", "video", 0)
STOPPED = "stop:2:before receipt *"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Run:
    """A run with 12 shards, its features of round 0 made without an executor. For reading only."""

    def make(root: Path) -> None:
        changes = {"corpus": {"path": "corpus", "clips_per_shard": 4}}
        run = write_run(root / "run", parse_config(changed(tiny_config.model_dump(), changes), "the tests' settings"))
        for node in (SHARD, Node("init", "video"), EXTRACT):
            run_stage(run, node)

    return open_run(made_once(tmp_path_factory, "twelve-shards", make) / "run")


@pytest.fixture
def run(plain: Run, tmp_path: Path) -> Run:
    """A copy without the features, which are to be made on the cluster."""
    return copy_without_features(plain, tmp_path / "run")


def copy_without_features(plain: Run, root: Path, **settings: Any) -> Run:
    shutil.copytree(plain.root, root)
    shutil.rmtree(root / "rounds")
    settings = {"address": ADDRESS} | settings
    changes = {"runs_on": {"executor": "ray", "executor_settings": settings}}
    return write_run(root, parse_config(changed(plain.config.model_dump(), changes), "a test's settings"))


def for_workers(**variables: str) -> dict[str, str]:
    """The environment of a process whose workers are to have some variables, as `ray job submit` gives them."""
    return {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": variables}})}


class Coordinator:
    """`xdc stage` on the first node. fault: for all its workers, as of XDC_FAULT."""

    def __init__(self, ray_nodes: RayCluster, run: Run, node: Node = EXTRACT, fault: str = "") -> None:
        words = ["stage", node.stage, run.root]
        words += ["--modality", str(node.modality), "--round", str(node.round)] if node.modality else []
        self.cluster, self.run, self.node = ray_nodes, run, node
        self.process = subprocess.Popen(
            ray_nodes.command("-m", "flows.cli", *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **ENVIRONMENT, **for_workers(XDC_FAULT=fault)},
        )

    def receipts(self) -> list[str]:
        """The shards that are stored."""
        folder = self.run.directory(self.node).parent
        found = folder.glob(f".{self.run.directory(self.node).name}.*.partial/{UNITS}/{RECEIPTS}/*.json")
        return [path.stem for path in found]

    def wait_for_stopped(self) -> None:
        """Wait until a worker on each node has stored a shard, and is stopped when it has made another one."""

        def both() -> bool:
            assert self.process.poll() is None, self.output()
            return len(self.cluster.stopped()) == 2

        wait_for("stopped workers on both nodes", both)
        assert len(self.receipts()) == 2

    def output(self) -> str:
        """Let stopped workers go on, also those that start and stop from now on; wait for the end, and return what was
        printed.
        """
        wait_for("the end of the stage", self._ended)
        return self.process.communicate()[0]

    def _ended(self) -> bool:
        self.cluster.go_on()
        return self.process.poll() is not None


def same_features(run: Run, plain: Run) -> bool:
    assert left_over(run.root) == []
    return differences(contents(run.directory(EXTRACT)), contents(plain.directory(EXTRACT))) == []


@pytest.mark.engines_long
def test_a_node_that_is_killed_in_the_middle_of_extraction_changes_no_byte(
    ray_nodes: RayCluster, run: Run, plain: Run
) -> None:
    stage = Coordinator(ray_nodes, run, fault=STOPPED)
    stage.wait_for_stopped()
    ray_nodes.kill(OTHER)
    said = stage.output()
    assert stage.process.returncode == 0, said
    log = run.root / "logs" / "000-extract.video.log"
    assert "is done again by another worker" in log.read_text()
    assert same_features(run, plain)


@pytest.mark.engines_long
def test_a_coordinator_that_is_killed_takes_its_workers_with_it_and_is_started_again(
    ray_nodes: RayCluster, run: Run, plain: Run
) -> None:
    stage = Coordinator(ray_nodes, run, fault=STOPPED)
    stage.wait_for_stopped()
    workers = ray_nodes.workers()
    assert len(workers) == 2
    ray_nodes.kill_inside(stage.process)
    wait_for("the end of its workers", lambda: not workers & ray_nodes.workers())
    assert len(stage.receipts()) == 2
    again = Coordinator(ray_nodes, run)
    said = again.output()
    assert again.process.returncode == 0, said
    assert same_features(run, plain)


@pytest.mark.engines_long
def test_a_node_that_is_killed_while_videos_are_cut_changes_no_byte_of_the_corpus(
    ray_nodes: RayCluster, run: Run, plain: Run
) -> None:
    shutil.rmtree(run.corpus)
    stage = Coordinator(ray_nodes, run, SHARD, fault=STOPPED)
    stage.wait_for_stopped()
    ray_nodes.kill(OTHER)
    said = stage.output()
    assert stage.process.returncode == 0, said
    assert left_over(run.root) == []
    assert differences(contents(run.corpus), contents(plain.corpus)) == []


@pytest.mark.engines_long
def test_clusters_and_labels_that_are_made_on_the_cluster_have_the_same_bytes(
    ray_nodes: RayCluster, run: Run, plain: Run
) -> None:
    shutil.copytree(plain.root / "rounds", run.root / "rounds")
    for stage in ("cluster", "label"):
        node = Node(stage, "video", 0)
        run_stage(plain, node)
        made = Coordinator(ray_nodes, run, node)
        said = made.output()
        assert made.process.returncode == 0, said
        assert differences(contents(run.directory(node)), contents(plain.directory(node))) == []


def start_job(ray_nodes: RayCluster, out: Path, work: str, count: int, **settings: Any) -> "subprocess.Popen[str]":
    """Start a job whose units take no time."""
    out.mkdir()
    given = json.dumps({"address": ADDRESS} | settings)
    command = ray_nodes.command("-m", "tests.engines.quick_job", "ray", given, out, work, count)
    environment = {**os.environ, **ENVIRONMENT}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def result_of(job: "subprocess.Popen[str]") -> dict[str, Any]:
    """What came of a job."""
    output, printed = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 0, output + printed
    (said,) = (line for line in output.splitlines() if line.startswith("{"))  # Ray prints there, too.
    return {**json.loads(said), "printed": printed}


def quick_job(ray_nodes: RayCluster, out: Path, work: str, count: int, **settings: Any) -> dict[str, Any]:
    return result_of(start_job(ray_nodes, out, work, count, **settings))


def test_units_are_taken_as_workers_need_them_and_logs_in_which_nothing_is_are_removed(
    ray_nodes: RayCluster, tmp_path: Path
) -> None:
    made = quick_job(ray_nodes, tmp_path / "out", "write_shards", 300)
    assert made["error"] == ""
    assert len(made["pids"]) == 2
    assert made["ahead"] <= 40
    assert len(list((tmp_path / "out").glob("*.txt"))) == 300
    assert list((tmp_path / "out" / "logs").iterdir()) == []


@pytest.mark.engines_long
@pytest.mark.parametrize(("work", "processes"), [("twice", 1), ("apart", 2)])
@pytest.mark.engines_long
def test_workers_are_kept_for_a_second_job_only_if_it_follows_at_once(
    ray_nodes: RayCluster, tmp_path: Path, work: str, processes: int
) -> None:
    made = quick_job(ray_nodes, tmp_path / "out", work, 3, workers=1)
    assert made["error"] == ""
    assert len(made["pids"]) == processes


@pytest.mark.engines_long
def test_a_node_on_which_no_worker_starts_does_not_end_what_others_do(ray_nodes: RayCluster, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['flows'] = None")
    ray_nodes.start(THIRD, cpus=3, path=tmp_path)
    job = start_job(ray_nodes, tmp_path / "out", "wait", 20, tries=2)
    assert job.stderr is not None
    failed = (line for line in job.stderr if "a test: a worker has not started: " in line)
    assert len(list(islice(failed, 3))) == 3
    (tmp_path / "out" / "go").touch()
    assert result_of(job)["error"] == ""


@pytest.mark.engines_long
def test_a_cluster_on_which_no_worker_starts_is_an_error(ray_nodes: RayCluster, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['flows'] = None")
    ray_nodes.start(THIRD, cpus=2, path=tmp_path)
    made = quick_job(ray_nodes, tmp_path / "out", "write_shards", 20, tries=2, cpus=2)
    assert "StageError: a test: no worker starts on the Ray cluster. Ray says: " in made["error"]


@pytest.mark.engines_long
def test_a_lost_connection_of_rays_client_is_explained(ray_nodes: RayCluster, tmp_path: Path) -> None:
    job = start_job(ray_nodes, tmp_path / "out", "wait", 6, address=CLIENT)
    wait_for("a worker", lambda: list((tmp_path / "out").glob("logs/*")), of=job)
    ray_nodes.kill_clients()
    assert "StageError: a test: the Ray cluster does not answer any more. What is finished" in result_of(job)["error"]


@pytest.mark.engines_long
def test_an_error_of_a_unit_ends_the_job_and_names_machine_and_log(ray_nodes: RayCluster, tmp_path: Path) -> None:
    made = quick_job(ray_nodes, tmp_path / "out", "refuse", 300, tries=3)
    (log,) = (path for path in (tmp_path / "out" / "logs").iterdir() if "bad shard" in path.read_text())
    assert made["error"] == (f"StageError: 000002.tar is cut. (worker on {platform.node()}; its output is in {log})")
    assert log.read_text().count("this is the bad shard") == 1
    assert len(list((tmp_path / "out").glob("*.txt"))) < 299


@pytest.mark.engines_long
def test_an_error_that_no_stage_raises_is_tried_again_by_another_worker(ray_nodes: RayCluster, tmp_path: Path) -> None:
    made = quick_job(ray_nodes, tmp_path / "out", "fail", 6, tries=2)
    logs = [path.read_text() for path in (tmp_path / "out" / "logs").iterdir()]
    assert made["error"].startswith("StageError: a test: IndexError: list index out of range (worker on ")
    assert len([text for text in logs if "Traceback" in text and "IndexError" in text]) == 2
    assert "000002 is done again by another worker: list index out of range" in made["printed"]


@pytest.mark.engines_long
def test_a_unit_that_ends_its_workers_is_given_up(ray_nodes: RayCluster, tmp_path: Path) -> None:
    made = quick_job(ray_nodes, tmp_path / "out", "die", 6, tries=2)
    assert "StageError: a test: 2 workers were lost with 000002, the last one on " in made["error"]
    assert made["error"].endswith("What is finished is kept: run this again.")


@pytest.mark.engines_long
def test_a_cluster_whose_nodes_are_too_small_is_described(ray_nodes: RayCluster, tmp_path: Path) -> None:
    made = quick_job(ray_nodes, tmp_path / "out", "write_shards", 6, cpus=2, wait_s=2)
    lacking = "a node with 2 CPUs and 0 GPUs, free or not; 0 are large enough. There are: 2 with 1 CPUs and 0 GPUs"
    assert made["error"].startswith(f"ConfigError: The Ray cluster has not had {lacking} (for 2 s). Lower cpus or gpus")
    assert f"waiting up to 2 s until the Ray cluster has {lacking}" in made["waiting"]


@pytest.mark.engines_long
def test_a_job_waits_for_another_one_that_occupies_the_cluster_and_ends_at_ctrl_c(
    ray_nodes: RayCluster, tmp_path: Path
) -> None:
    first = start_job(ray_nodes, tmp_path / "first", "wait", 6)
    wait_for("both workers of the first job", lambda: len([*(tmp_path / "first").glob("logs/*")]) == 2, of=first)
    second = start_job(ray_nodes, tmp_path / "second", "write_shards", 6, wait_s=1)
    assert second.stderr is not None
    waiting = "waiting until Ray starts a worker for a test: a node with 1 CPUs and 0 GPUs must be free"
    assert any(waiting in line for line in second.stderr)
    (inside,) = children_of(first.pid)
    os.kill(inside, signal.SIGINT)
    assert result_of(second)["error"] == ""
    assert "KeyboardInterrupt" in first.communicate(timeout=PATIENCE_S)[1]
    wait_for("the end of all workers", lambda: not ray_nodes.workers())


def checked(ray_nodes: RayCluster, code: str, address: str = ADDRESS) -> str:
    """What the executor's check raises in a process on the first node, after `code`."""
    words = ["from flows.executors.registry import check_executor", "from xdc_core.config.schema import RunsOn", code]
    words.append(f"check_executor(RunsOn(executor='ray', executor_settings={{'address': {address!r}}}))")
    command = ray_nodes.command("-c", "\n".join(words))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT}, check=False)
    return done.stderr.splitlines()[-1] if done.stderr else ""


@pytest.mark.engines_long
def test_a_cluster_of_this_version_is_accepted(ray_nodes: RayCluster) -> None:
    assert checked(ray_nodes, "") == ""
    assert checked(ray_nodes, "", "auto") == ""


@pytest.mark.engines_long
def test_an_address_without_a_cluster_is_refused_in_one_line(ray_nodes: RayCluster) -> None:
    said = checked(ray_nodes, "", "127.0.0.1:6380")
    assert "this process cannot join a cluster at 127.0.0.1:6380: Connection refused." in said


@pytest.mark.engines_long
def test_nodes_with_another_version_of_the_package_are_refused(ray_nodes: RayCluster) -> None:
    other = "import flows.executors.ray.cluster as module; module.version = lambda name: '9.9'"
    assert f"of the Ray cluster at {ADDRESS} has version 0.2" in checked(ray_nodes, other)


@pytest.mark.engines_long
def test_only_nodes_that_get_units_need_the_package(ray_nodes: RayCluster, tmp_path: Path) -> None:
    code = "import importlib.metadata as module; module.version = lambda name: '9.9'"
    (tmp_path / "sitecustomize.py").write_text(code)
    ray_nodes.start(THIRD, cpus=0, path=tmp_path)
    assert checked(ray_nodes, "") == ""
    ray_nodes.kill(THIRD)
    ray_nodes.start(THIRD, cpus=1, path=tmp_path)
    assert f"the node {THIRD} of the Ray cluster at {ADDRESS} has version 9.9" in checked(ray_nodes, "")


@pytest.mark.engines_long
def test_another_version_of_ray_is_refused(ray_nodes: RayCluster, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import ray; ray.__version__ = '2.41.0'")
    other = f"import os; os.environ['PYTHONPATH'] = {str(tmp_path)!r} + ':' + os.environ.get('PYTHONPATH', '')"
    said = checked(ray_nodes, other)
    assert "Version mismatch" in said
    assert "2.41.0" in said


def test_features_of_new_clips_are_computed_on_the_cluster_with_the_bytes_of_a_local_run(
    ray_nodes: RayCluster, run: Run, plain: Run, digits: Path, tmp_path: Path
) -> None:
    words = ray_nodes.command(
        "-m", "flows.cli", "embed", run.root, digits, "--out", tmp_path / "new", "--modality", "video"
    )
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=PATIENCE_S, env={**os.environ, **ENVIRONMENT, **for_workers()}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    there = open_run(tmp_path / "new")
    assert there.config.runs_on.executor == "ray"
    code, output = xdc("embed", plain.root, digits, "--out", tmp_path / "local", "--modality", "video")
    assert code == 0, output
    local = open_run(tmp_path / "local")
    assert differences(contents(there.directory(EXTRACT)), contents(local.directory(EXTRACT))) == []
