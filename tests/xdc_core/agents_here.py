"""An executor that starts the agents of several machines on this one."""

from collections.abc import Callable, Sequence
from pathlib import Path

from shards.store.executor import InProcess
from xdc_core.ranks.launcher import AgentHere, Agents


class AgentsHere(InProcess):
    """A launcher for this machine. command: to be started instead of the given one. given: what was asked for."""

    def __init__(self, command: Sequence[str] = ()) -> None:
        self.command = command
        self.agents: list[AgentHere] = []

    def start_agents(
        self,
        command: Sequence[str],
        machines: int,
        processes: int,
        gpu: bool,
        log: Path,
        waiting: Callable[[str], None],
    ) -> Agents:
        self.given = (command, machines, processes, gpu, log)
        self.agents = [AgentHere(self.command or command, log) for _ in range(machines)]
        return self

    def poll(self) -> list[int | None]:
        return [code for agent in self.agents for code in agent.poll()]

    def kill(self) -> None:
        for agent in self.agents:
            agent.kill()
