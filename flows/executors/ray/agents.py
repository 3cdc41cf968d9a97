"""The agents of a training on several nodes of a Ray cluster: one per node, all at the same time."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.executors.ray.cluster import end_actors, lost_cluster_explained, lost_connection
from flows.executors.ray.room import Wait
from xdc_core.compute.parent_death import die_with_parent

LOST = 1  # Exit code of agents whose node is lost.
LOOK_S = 1.0  # Seconds between two looks at the nodes while there is no room.
END_S = 20.0  # Seconds for Ray to end an agent's actor.
# What Ray sets for a worker, and what holds on the stage's machine only.
OF_THE_NODE = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HOSTNAME")


class RayAgent:
    """The class of the actors. An agent is a child of its actor, and dies with it."""

    def run(self, command: list[str], python: str, environment: Mapping[str, str], folder: str, log: str) -> int:
        """Run the command to its end, and return its exit code. python: the stage's, to be replaced by this one's."""
        own = {name: value for name, value in os.environ.items() if name in OF_THE_NODE or name.startswith("RAY_")}
        actor = os.getpid()
        with Path(log).open("ab") as output:
            return subprocess.run(
                [sys.executable if word == python else word for word in command],
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
    """The agents of one training. ray: the module. group: the placement group. actors: by Ray's reference to the exit
    code of their agents.
    """

    ray: Any
    group: Any
    actors: dict[Any, Any]
    codes: dict[Any, int] = field(default_factory=dict)

    def poll(self) -> list[int | None]:
        """Return the exit code of each agent, None while it runs."""
        running = [reference for reference in self.actors if reference not in self.codes]
        if running:
            with lost_cluster_explained("the agents of a training"):
                ended, _ = self.ray.wait(running, num_returns=len(running), timeout=0)
                for reference in ended:
                    self.codes[reference] = self._code(reference)
            if len(self.codes) == len(self.actors):
                self._free()
        return [self.codes.get(reference) for reference in self.actors]

    def _code(self, reference: Any) -> int:
        try:
            return int(self.ray.get(reference))
        except self.ray.exceptions.RayError as error:
            print(f"an agent was lost. Ray says: {' '.join(str(error).split())}", file=sys.stderr)
            return LOST

    def kill(self) -> None:
        """End all agents and their ranks at once, and return when they are gone."""
        running = [reference for reference in self.actors if reference not in self.codes]
        if running:
            end_actors(self.ray, [self.actors[reference] for reference in running])
            with suppress(*lost_connection()):
                self.ray.wait(running, num_returns=len(running), timeout=END_S)
            self.codes |= dict.fromkeys(running, LOST)
            self._free()

    def _free(self) -> None:
        end_actors(self.ray, self.actors.values())
        with suppress(*lost_connection()):
            self.ray.util.remove_placement_group(self.group)


def start_agents(
    ray: Any,
    command: Sequence[str],
    machines: int,
    processes: int,
    gpu: bool,
    log: Path,
    wait_s: float,
    waiting: Callable[[str], None],
) -> RayAgents:
    """Start `command` on each of `machines` nodes, as soon as all of them have `processes` cores (and GPUs) free.

    waiting: is called with what is waited for.

    Raises:
        ConfigError: for `wait_s` seconds the cluster has had too few nodes that are large enough.
    """
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    bundle = {"CPU": float(processes), **({"GPU": float(processes)} if gpu else {})}
    advice = "Lower runs_on.nodes or train.processes, or add nodes."
    wait = Wait(ray, "the agents of a training", bundle, machines, wait_s, advice, waiting)
    group = placement_group([bundle] * machines, strategy="STRICT_SPREAD")
    try:
        while not group.wait(LOOK_S):
            wait.look()
    except BaseException:
        with suppress(*lost_connection()):
            ray.util.remove_placement_group(group)
        raise
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    running = {}
    for number in range(machines):
        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
        actor = (
            ray.remote(RayAgent)
            .options(num_cpus=processes, num_gpus=processes if gpu else 0, scheduling_strategy=place, max_restarts=0)
            .remote()
        )
        running[actor.run.remote([*command], sys.executable, environment, os.getcwd(), str(log))] = actor
    return RayAgents(ray, group, running)
