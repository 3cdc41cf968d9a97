"""Agents of a training on several nodes of a Slurm cluster: one on each node, and none is left."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from flows.executors.slurm.agents import SlurmAgents
from flows.executors.slurm.executor import Slurm
from flows.executors.slurm.settings import SlurmSettings
from shards.errors import StageError
from tests.engines.slurm_cluster import SlurmCluster, slurm_cluster, why_not
from tests.processes import alive, wait_for
from tests.warm import warm
from xdc_core.ranks.launcher import Launcher

REASON = why_not()
pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(REASON is not None, reason=f"Slurm cannot be tested here: {REASON}"),
]
AGENT = """
import os, sys, time
from pathlib import Path
folder, node = Path(sys.argv[1]), os.environ["SLURMD_NODENAME"]
(folder / node).write_text(str(Path.cwd()) + os.environ["OF_THE_STAGE"])
print("an agent on", node, flush=True)
while not (folder / f"{node}-exit").exists():
    time.sleep(0.02)
sys.exit(int((folder / f"{node}-exit").read_text()))
"""
STAGE = """
import time
from pathlib import Path
from flows.executors.slurm.executor import Slurm
from flows.executors.slurm.settings import SlurmSettings
folder, agent = sys.argv[1:]
Slurm(SlurmSettings(cpus=1)).start_agents([sys.executable, "-c", agent, folder], 2, 1, False, Path(folder, "log"))
time.sleep(600)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A cluster for this file of tests."""
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(autouse=True)
def tools_found(cluster: SlurmCluster) -> None:
    os.environ |= {"PATH": f"{cluster.bin}:{os.environ['PATH']}", "OF_THE_STAGE": " and its environment"}


def start(folder: Path, machines: int = 2) -> SlurmAgents:
    executor = Slurm(SlurmSettings(cpus=1))
    assert isinstance(executor, Launcher)
    return executor.start_agents([sys.executable, "-c", AGENT, str(folder)], machines, 1, False, folder / "log")


def agents_of(cluster: SlurmCluster, folder: Path) -> list[int]:
    """The processes of the agents."""
    needle = f"{AGENT}\0{folder}".encode()
    found = []
    for process in cluster.processes():
        with suppress(FileNotFoundError, ProcessLookupError):
            if needle in Path(f"/proc/{process}/cmdline").read_bytes():
                found.append(process)
    return found


def wait_for_both(folder: Path) -> None:
    wait_for("two agents that write", lambda: {path.name for path in folder.glob("n?")} == {"n1", "n2"}, 60)


def wait_until_gone(cluster: SlurmCluster, processes: list[int]) -> None:
    wait_for("the agents to end", lambda: not any(alive(process) for process in processes), 30)
    wait_for("their job to end", lambda: cluster.call("squeue", "-h") == "", 30)


def test_each_node_has_an_agent_with_directory_and_environment_of_the_stage(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    agents = start(tmp_path)
    wait_for_both(tmp_path)
    assert agents.poll() == [None]
    for node in ("n1", "n2"):
        assert (tmp_path / node).read_text() == f"{Path.cwd()} and its environment"
        (tmp_path / f"{node}-exit").write_text("0")
    wait_for("both to end", lambda: agents.poll() == [0], 30)
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["0: an agent on n1", "1: an agent on n2"]
    agents.kill()


def test_an_agent_that_fails_ends_the_other(cluster: SlurmCluster, tmp_path: Path) -> None:
    agents = start(tmp_path)
    wait_for_both(tmp_path)
    processes = agents_of(cluster, tmp_path)
    (tmp_path / "n2-exit").write_text("3")
    wait_for("srun to end", lambda: agents.poll() != [None], 30)
    assert agents.poll()[0]
    wait_until_gone(cluster, processes)


def test_killed_agents_are_gone(cluster: SlurmCluster, tmp_path: Path) -> None:
    agents = start(tmp_path)
    wait_for_both(tmp_path)
    processes = agents_of(cluster, tmp_path)
    assert len(processes) == 2
    agents.kill()
    assert not any(alive(process) for process in processes)
    assert agents.poll()[0]
    agents.kill()


def test_agents_end_with_a_killed_stage(cluster: SlurmCluster, tmp_path: Path) -> None:
    stage = warm(STAGE, tmp_path, AGENT)
    wait_for_both(tmp_path)
    processes = agents_of(cluster, tmp_path)
    assert len(processes) == 2
    stage.send_signal(signal.SIGKILL)
    wait_until_gone(cluster, processes)


def test_what_slurm_refuses_is_said_in_its_words(cluster: SlurmCluster, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"did not start the agents .*configuration is not available"):
        start(tmp_path, machines=3)
