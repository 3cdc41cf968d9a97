"""The agents of a training on several nodes of a Ray cluster: one per node, all at the same time."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.errors import ConfigError, StageError
from xdc_core.compute.parent_death import die_with_parent

LOST = 1  # Exit code of agents whose node is lost.
END_S = 20.0  # Seconds for Ray to end an agent's actor.
# What Ray sets for a worker, and what holds on the stage's machine only.
OF_THE_NODE = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HOSTNAME")


class RayAgent:
    """The class of the actors. An agent is a child of its actor, and dies with it."""

    def run(self, command: list[str], environment: Mapping[str, str], folder: str, log: str) -> int:
        """Run the command to its end, and return its exit code."""
        own = {name: value for name, value in os.environ.items() if name in OF_THE_NODE or name.startswith("RAY_")}
        actor = os.getpid()
        with Path(log).open("ab") as output:
            return subprocess.run(
                command,
                env={**environment, **own},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                preexec_fn=lambda: die_with_parent(signal.SIGKILL, actor),
            ).returncode


@dataclass
class RayAgents:
    """The agents of one training. ray: the module. running: actors by Ray's reference to their exit codes."""

    ray: Any
    group: Any
    running: dict[Any, Any]
    failed: int = 0

    def poll(self) -> int | None:
        """Return None while agents run; 0 if all ended well, else an exit code as soon as one has failed."""
        if self.failed or not self.running:
            return self.failed
        ended, _ = self.ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
        for reference in ended:
            del self.running[reference]
            try:
                code = self.ray.get(reference)
            except self.ray.exceptions.RayError:
                code = LOST
            self.failed = self.failed or code
        if self.failed:
            return self.failed
        if self.running:
            return None
        self.kill()
        return 0

    def kill(self) -> None:
        """End all agents and their ranks at once, and return when they are gone."""
        for actor in self.running.values():
            self.ray.kill(actor)
        if self.running:
            self.ray.wait(list(self.running), num_returns=len(self.running), timeout=END_S)
        self.running.clear()
        self.ray.util.remove_placement_group(self.group)


def start_agents(
    ray: Any, command: Sequence[str], machines: int, processes: int, gpu: bool, log: Path, wait_s: float
) -> RayAgents:
    """Start `command` on each of `machines` nodes that all have room for `processes` ranks.

    Raises:
        ConfigError: the cluster has too few such nodes.
        StageError: there was no room on them for `wait_s` seconds.
    """
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    bundle = {"CPU": float(processes), **({"GPU": float(processes)} if gpu else {})}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    large = [node for node in nodes if all(node.get(name, 0) >= amount for name, amount in bundle.items())]
    needs = " and ".join(f"{amount:g} {name}s" for name, amount in bundle.items())
    if len(large) < machines:
        raise ConfigError(
            f"runs_on.nodes is {machines}, but of the {len(nodes)} nodes of the Ray cluster only {len(large)} have the "
            f"{needs} for their share of train.processes. Lower runs_on.nodes or train.processes, or add nodes."
        )
    group = placement_group([bundle] * machines, strategy="STRICT_SPREAD")
    if not group.wait(wait_s):
        ray.util.remove_placement_group(group)
        raise StageError(
            f"for {wait_s:g} s the Ray cluster has not had {needs} free on {machines} nodes at once. End what occupies "
            "them, and run this again."
        )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    running = {}
    for number in range(machines):
        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
        actor = (
            ray.remote(RayAgent)
            .options(num_cpus=processes, num_gpus=processes if gpu else 0, scheduling_strategy=place, max_restarts=0)
            .remote()
        )
        running[actor.run.remote([*command], environment, os.getcwd(), str(log))] = actor
    return RayAgents(ray, group, running)
