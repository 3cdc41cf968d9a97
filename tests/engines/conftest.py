"""What the tests of the executors `ray` and `slurm` share: a cluster of two nodes for each file of tests.

They are skipped, with the reason, where there can be no cluster. That is found out when the first test asks for one.
"""

import getpass
import os
from collections.abc import Iterator

import pytest

from tests.engines import ray_cluster as ray
from tests.engines import seaweed
from tests.engines import slurm_cluster as slurm
from tests.engines.ray_cluster import RayCluster
from tests.engines.seaweed import Seaweed
from tests.engines.slurm_cluster import SlurmCluster
from tests.processes import wait_for


@pytest.fixture(scope="module")
def ray_of_file() -> Iterator[RayCluster]:
    """A Ray cluster of two nodes. It lasts for one file of tests: its processes take 900 MB."""
    if reason := ray.why_not():
        pytest.skip(f"Ray cannot be tested here: {reason}")
    with ray.ray_cluster() as running:
        yield running


@pytest.fixture
def ray_nodes(ray_of_file: RayCluster) -> Iterator[RayCluster]:
    """The same, with both nodes for the next test, whatever this one has killed and left."""
    yield ray_of_file
    ray_of_file.restore()


@pytest.fixture(scope="module")
def slurm_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A Slurm cluster of two nodes, which lasts for one file of tests."""
    if reason := slurm.why_not():
        pytest.skip(f"Slurm cannot be tested here: {reason}")
    with slurm.slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def cluster(slurm_nodes: SlurmCluster) -> Iterator[SlurmCluster]:
    """A Slurm cluster whose tools are found. What a failed test has left in its queue is cancelled."""
    os.environ["PATH"] = f"{slurm_nodes.bin}:{os.environ['PATH']}"
    yield slurm_nodes
    slurm_nodes.call("scancel", "--user", getpass.getuser())
    wait_for("the end of all jobs", lambda: slurm_nodes.call("squeue", "-h") == "")


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A SeaweedFS, which lasts for one file of tests."""
    if reason := seaweed.why_not():
        pytest.skip(f"Object stores cannot be tested here: {reason}")
    with seaweed.seaweed(tmp_path_factory.mktemp("seaweed")) as running:
        yield running


@pytest.fixture
def s3(object_store: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Seaweed:
    """The same, with the credentials of its owner in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in object_store.environment().items():
        monkeypatch.setenv(name, value)
    return object_store
