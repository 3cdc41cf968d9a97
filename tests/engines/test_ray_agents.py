"""Agents of a training on several nodes of a Ray cluster: one on each node, and none is left."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.engines.ray_cluster import ADDRESS, ENVIRONMENT, OTHER, RayCluster
from tests.processes import PATIENCE_S, command_of, wait_for

pytestmark = [pytest.mark.engines, pytest.mark.engines_long]
AGENT = """
import os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
own = folder / os.environ["RAY_RAYLET_PID"]
own.write_text(str(Path.cwd()) + os.environ["OF_THE_STAGE"])
print("an agent on", own.name, flush=True)
while not (folder / "go").exists():
    time.sleep(0.02)
sys.exit(int((folder / "go").read_text()))
"""
STAGE = """
import json, os, sys, time
from pathlib import Path
from flows.executors.ray.executor import RayExecutor, RaySettings
from shards.errors import XdcError
folder, agent, machines, processes = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
os.environ["OF_THE_STAGE"] = " and its environment"
executor, shown = RayExecutor(RaySettings(address=ADDRESS, wait_s=3), "auto"), []
command = [sys.executable, "-c", agent, str(folder)]
try:
    agents = executor.start_agents(command, machines, processes, True, folder / "start.log", shown.append)
except XdcError as error:
    print(json.dumps([f"{type(error).__name__}: {error}", shown[0]]))
    sys.exit()
while None in agents.poll() and not any(agents.poll()) and not (folder / "enough").exists():
    time.sleep(0.05)
codes = agents.poll()
agents.kill()
agents.kill()
print(json.dumps(codes))
""".replace("ADDRESS", repr(ADDRESS))


class Stage:
    """A stage's process on the first node. It starts agents and waits for their end, a failure, or a file `enough`."""

    def __init__(self, ray_nodes: RayCluster, folder: Path, machines: int = 2, processes: int = 1) -> None:
        words = [STAGE, folder, AGENT, machines, processes]
        self.process = subprocess.Popen(
            ray_nodes.command("-c", *words), stdout=subprocess.PIPE, text=True, env={**os.environ, **ENVIRONMENT}
        )

    def said(self) -> Any:
        """Wait for the end, and return what it printed."""
        output = self.process.communicate(timeout=PATIENCE_S)[0]
        (line,) = (line for line in output.splitlines() if line.startswith("["))  # Ray prints there, too.
        return json.loads(line)


def agents_of(ray_nodes: RayCluster) -> set[int]:
    return {process for process in ray_nodes.processes() if AGENT in command_of(process)}


def wait_for_two(ray_nodes: RayCluster) -> None:
    wait_for("two agents", lambda: len(agents_of(ray_nodes)) == 2)


def test_each_node_has_an_agent_with_directory_and_environment_of_the_stage(
    ray_nodes: RayCluster, tmp_path: Path
) -> None:
    stage = Stage(ray_nodes, tmp_path)
    wait_for("two agents that write", lambda: len([*tmp_path.glob("[0-9]*")]) == 2)
    nodes = sorted(tmp_path.glob("[0-9]*"))
    (tmp_path / "go").write_text("0")
    assert stage.said() == [0, 0]
    assert [node.read_text() for node in nodes] == [f"{Path.cwd()} and its environment"] * 2
    assert {f"an agent on {node.name}" for node in nodes} == set((tmp_path / "start.log").read_text().splitlines())
    assert agents_of(ray_nodes) == set()


def test_poll_returns_the_exit_code_of_an_agent(ray_nodes: RayCluster, tmp_path: Path) -> None:
    (tmp_path / "go").write_text("7")
    assert 7 in Stage(ray_nodes, tmp_path).said()
    assert agents_of(ray_nodes) == set()


def test_agents_are_killed_when_the_stage_has_enough_of_them(ray_nodes: RayCluster, tmp_path: Path) -> None:
    stage = Stage(ray_nodes, tmp_path)
    wait_for_two(ray_nodes)
    (tmp_path / "enough").touch()
    assert stage.said() == [None, None]
    wait_for("the agents to end", lambda: not agents_of(ray_nodes))


def test_agents_end_with_a_stage_that_is_killed(ray_nodes: RayCluster, tmp_path: Path) -> None:
    stage = Stage(ray_nodes, tmp_path)
    wait_for_two(ray_nodes)
    ray_nodes.kill_inside(stage.process)
    wait_for("the agents to end", lambda: not agents_of(ray_nodes))


@pytest.mark.parametrize(("machines", "processes"), [(3, 1), (2, 2)])
def test_more_than_the_cluster_has_is_refused(
    ray_nodes: RayCluster, tmp_path: Path, machines: int, processes: int
) -> None:
    error, shown = Stage(ray_nodes, tmp_path, machines, processes).said()
    have = 2 if processes == 1 else 0
    lacking = f"{machines} nodes with {processes} CPUs, free or not; {have} are large enough. There are: 2 with 1 CPUs"
    assert error.startswith(f"ConfigError: The Ray cluster has not had {lacking} and 0 GPUs (for 3 s). Lower runs_on.n")
    assert shown == f"waiting up to 3 s until the Ray cluster has {lacking} and 0 GPUs"


def test_an_agent_whose_node_is_lost_has_failed(ray_nodes: RayCluster, tmp_path: Path) -> None:
    stage = Stage(ray_nodes, tmp_path)
    wait_for_two(ray_nodes)
    ray_nodes.kill(OTHER)
    assert sorted(stage.said(), key=str) == [1, None]
    wait_for("the agents to end", lambda: not agents_of(ray_nodes))
