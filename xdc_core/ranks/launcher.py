"""Start one agent of a training per machine."""

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from xdc_core.compute.parent_death import die_with_parent


class Agents(Protocol):
    """The agents of one training."""

    def poll(self) -> Sequence[int | None]:
        """Return the exit code of each agent, None while it runs; or only one, for all of them together."""

    def kill(self) -> None:
        """End all agents and their ranks at once, and return when they are gone."""


@runtime_checkable
class Launcher(Protocol):
    """An executor that also starts the agents of trainings on several machines."""

    def start_agents(
        self,
        command: Sequence[str],
        machines: int,
        processes: int,
        gpu: bool,
        log: Path,
        waiting: Callable[[str], None],
    ) -> Agents:
        """Start `command` once on each of `machines` machines, all at the same time.

        processes: ranks that each agent starts. gpu: each rank can use a GPU, if the machines have any. log: file for
        the output of agents that have no log of their own yet, and for the launcher's messages. waiting: is called
        with what is waited for, until the machines are free. Agents get this process's environment and working
        directory.

        Raises:
            ConfigError, StageError: they cannot be started.
        """


class AgentHere:
    """An agent on this machine, as a child of this process."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        stage = os.getpid()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # The ranks die with the agent, and the agent with this process: a survivor would write into a directory
                # that is no longer locked.
                preexec_fn=lambda: die_with_parent(signal.SIGKILL, stage),
                process_group=0,  # A signal to this process's group reaches it through this process alone.
            )

    def poll(self) -> Sequence[int | None]:
        """Return its exit code, negative for a signal; None while it runs."""
        return [self._process.poll()]

    def kill(self) -> None:
        """End it, and its ranks, at once."""
        self._process.kill()
        self._process.wait()
