"""The executor `ray` on a real cluster of two nodes: nodes and coordinators die, and the bytes stay the same."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shards.store.receipt import RECEIPTS, UNITS
from tests.engines.ray_cluster import ADDRESS, ENVIRONMENT, OTHER, RayCluster, ray_cluster, why_not
from tests.faults.traces import contents, differences, left_over
from tests.processes import children_of, wait_for
from tests.runs import changed, write_run
from tests.sharing import made_once
from xdc_core.config.load import parse_config
from xdc_core.config.schema import Config
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run

pytestmark = [pytest.mark.engines, pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]
SHARDS, EXTRACT = 12, Node("extract", "video", 0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as running:
        yield running


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


class Coordinator:
    """A stage that is in progress on the first node."""

    def __init__(self, cluster: RayCluster, run: Run, node: Node = EXTRACT, **environment: str) -> None:
        words = [str(run.root), node.stage, str(node.modality), str(node.round)]
        self.run, self.node = run, node
        self.process = subprocess.Popen(
            cluster.command("-m", "tests.engines.coordinator", *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **ENVIRONMENT, **environment},
        )

    def receipts(self) -> list[str]:
        """The shards that are stored."""
        folder = self.run.directory(self.node).parent
        found = folder.glob(f".{self.run.directory(self.node).name}.*.partial/{UNITS}/{RECEIPTS}/*.json")
        return [path.stem for path in found]

    def in_the_middle(self, workers: int = 2) -> bool:
        """Whether so many workers have begun, and shards are stored, but not all."""
        assert self.process.poll() is None, self.output()
        logs = list((self.run.root / "logs" / "units").glob("*.log"))
        return len(logs) >= workers and len(self.receipts()) >= 2

    def kill(self) -> None:
        """Kill the stage's process with SIGKILL."""
        (stage,) = children_of(self.process.pid)
        os.kill(stage, signal.SIGKILL)
        self.process.wait()

    def output(self) -> str:
        """Wait for the end, and return what was printed."""
        return self.process.communicate(timeout=240)[0]


def same_features(run: Run, plain: Run) -> bool:
    assert left_over(run.root) == []
    return differences(contents(run.directory(EXTRACT)), contents(plain.directory(EXTRACT))) == []


def test_a_node_that_is_killed_in_the_middle_of_extraction_changes_no_byte(
    cluster: RayCluster, run: Run, plain: Run
) -> None:
    stage = Coordinator(cluster, run)
    wait_for("shards of both nodes", stage.in_the_middle, 120)
    cluster.kill(OTHER)
    assert len(stage.receipts()) < SHARDS
    said = stage.output()
    assert stage.process.returncode == 0, said
    assert "is done again by another worker" in said
    assert same_features(run, plain)
    cluster.start(OTHER)


def test_a_coordinator_that_is_killed_takes_its_workers_with_it_and_is_started_again(
    cluster: RayCluster, run: Run, plain: Run
) -> None:
    stage = Coordinator(cluster, run)
    wait_for("shards of both nodes", stage.in_the_middle, 120)
    workers = cluster.workers()
    assert len(workers) == 2
    stage.kill()
    wait_for("the end of its workers", lambda: not workers & cluster.workers(), 30)
    stored = stage.receipts()
    assert 2 <= len(stored) < SHARDS
    again = Coordinator(cluster, run)
    said = again.output()
    assert again.process.returncode == 0, said
    assert same_features(run, plain)


def test_logs_in_which_nothing_is_are_removed(cluster: RayCluster, run: Run, plain: Run) -> None:
    stage = Coordinator(cluster, run)
    said = stage.output()
    assert stage.process.returncode == 0, said
    assert same_features(run, plain)
    assert list((run.root / "logs" / "units").iterdir()) == []
