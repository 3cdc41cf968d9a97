"""Training on several nodes of a Slurm cluster: an agent on each node, none is left, and the bytes are the same."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.executors.slurm.agents import SlurmAgents
from flows.executors.slurm.executor import Slurm
from flows.executors.slurm.settings import SlurmSettings
from shards.errors import ConfigError
from shards.store.commit import partial_directory
from tests.engines.slurm_cluster import ADDRESS, SlurmCluster
from tests.faults.traces import contents, differences
from tests.places import ROOT
from tests.processes import PATIENCE_S, alive, command_of, wait_for
from tests.runs import MakeRun
from tests.warm import warm
from tests.xdc_core.stage_process import checkpointed_step
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.ranks.launcher import Launcher
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

pytestmark = [pytest.mark.engines, pytest.mark.engines_long, pytest.mark.slow]
AUDIO = Node("train", "audio", 0)
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


@pytest.fixture(autouse=True)
def environment_of_the_stage(cluster: SlurmCluster) -> None:
    os.environ["OF_THE_STAGE"] = " and its environment"


def start(folder: Path, machines: int = 2, waiting: Callable[[str], None] = print) -> SlurmAgents:
    executor = Slurm(SlurmSettings(cpus=1, grace=2))
    assert isinstance(executor, Launcher)
    command = [sys.executable, "-c", AGENT, str(folder)]
    # Like a default configuration: each could use a GPU, if the machines had any.
    return executor.start_agents(command, machines, 1, True, folder / "log", waiting)


def agents_of(cluster: SlurmCluster, folder: Path) -> list[int]:
    """The processes of the agents."""
    return [process for process in cluster.processes() if [AGENT, str(folder)] == command_of(process)[2:4]]


def wait_for_both(folder: Path) -> None:
    wait_for("two agents that write", lambda: {path.name for path in folder.glob("n?")} == {"n1", "n2"})


def wait_until_gone(cluster: SlurmCluster, processes: list[int]) -> None:
    wait_for("the agents to end", lambda: not any(alive(process) for process in processes))
    wait_for("their job to end", lambda: cluster.call("squeue", "-h") == "")


def test_each_node_has_an_agent_with_directory_and_environment_of_the_stage(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    agents = start(tmp_path)
    wait_for_both(tmp_path)
    assert agents.poll() == [None]
    for node in ("n1", "n2"):
        assert (tmp_path / node).read_text() == f"{Path.cwd()} and its environment"
        (tmp_path / f"{node}-exit").write_text("0")
    wait_for("both to end", lambda: agents.poll() == [0])
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["0: an agent on n1", "1: an agent on n2"]
    agents.kill()


def test_agents_that_wait_for_machines_say_what_slurm_says(cluster: SlurmCluster, tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    first, shown = start(folders[0]), []
    wait_for_both(folders[0])

    def waiting(text: str) -> None:
        shown.append(text)
        if "pending" in text:
            for node in ("n1", "n2"):
                (folders[0] / f"{node}-exit").write_text("0")

    second = start(folders[1], waiting=waiting)
    assert "Slurm: pending" in " ".join(shown)
    assert first.poll() == [0]
    second.kill()


def test_an_agent_that_fails_ends_the_other(cluster: SlurmCluster, tmp_path: Path) -> None:
    agents = start(tmp_path)
    wait_for_both(tmp_path)
    processes = agents_of(cluster, tmp_path)
    (tmp_path / "n2-exit").write_text("3")
    wait_for("srun to end", lambda: agents.poll() != [None])
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


def test_more_machines_than_there_are_is_an_error_at_once(cluster: SlurmCluster, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--nodes=3 .*configuration is not available.*runs_on\.nodes"):
        start(tmp_path, machines=3)


def trained(cluster: SlurmCluster, run: Run) -> "subprocess.Popen[str]":
    """The train stage, started on a machine that the nodes reach: in the cluster's network."""
    command = ["nsenter", "--target", str(cluster.first), "--net", "--uts", "--"]
    command += [
        sys.executable,
        "-m",
        "flows.cli",
        "stage",
        "train",
        str(run.root),
        "--modality",
        "audio",
        "--round",
        "0",
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_training_whose_agent_is_killed_ends_with_the_bytes_of_one_machine(
    cluster: SlurmCluster, copy_run: MakeRun
) -> None:
    settings = {"train_clips": 960, "checkpoint_every": 10, "train_processes": 2}
    here = copy_run(**settings)
    run_stage(here, AUDIO)
    executor = {"executor": "slurm", "executor_settings": {"cpus": 1, "grace": 5}}
    there = copy_run(**settings, runs_on=executor | {"nodes": 2, "rendezvous": ADDRESS})

    partial = partial_directory(there.directory(AUDIO), str(Fingerprints(there).of(AUDIO)))
    stage = trained(cluster, there)
    wait_for("a checkpoint", lambda: checkpointed_step(partial) > 0, of=stage)
    agents = [process for process in cluster.processes() if "xdc_core.ranks.agent" in command_of(process)]
    assert {cluster.node_of(process) for process in agents} == {"n1", "n2"}
    os.kill(agents[0], signal.SIGKILL)
    said = stage.communicate(timeout=PATIENCE_S)[0]
    assert stage.returncode == 1, said
    assert checkpointed_step(partial) % 10 == 0
    wait_until_gone(cluster, agents)

    stage = trained(cluster, there)
    said = stage.communicate(timeout=PATIENCE_S)[0]
    assert stage.returncode == 0, said
    assert differences(contents(there.directory(AUDIO)), contents(here.directory(AUDIO))) == []
