"""The agents of a training on several machines of a Slurm cluster: one `srun`, which is a child of the stage."""

import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.executors.slurm.jobs import cancel, states
from flows.executors.slurm.settings import SlurmSettings
from flows.executors.slurm.tools import NoAnswer, check_options, environment, patiently
from shards.errors import StageError
from xdc_core.compute.parent_death import die_with_parent

ASK_S, LONGEST_ASK_S = 0.5, 10.0  # Seconds between two questions whether the job has started.
END_S = 60.0  # Seconds for Slurm to end a job.


@dataclass(frozen=True)
class SlurmAgents:
    """The agents of one training. name: of their job."""

    name: str
    process: subprocess.Popen[bytes]

    def poll(self) -> list[int | None]:
        """Return the exit code of `srun`, the highest of all agents; None while one runs.

        When one has ended, the others have `grace` seconds to end.
        """
        return [self.process.poll()]

    def kill(self) -> None:
        """End all agents and their ranks at once, and return when they are gone."""
        if self.process.poll() is not None:
            return
        try:
            cancel(f"--name={self.name}", "--signal=KILL")
            cancel(f"--name={self.name}")  # While it waits for machines there is nothing to kill.
            self.process.wait(END_S)
        except (NoAnswer, subprocess.TimeoutExpired) as error:
            print(f"{self.name} could not be cancelled: {error}", file=sys.stderr, flush=True)
            self.process.kill()
            self.process.wait()


def start_agents(
    command: Sequence[str],
    machines: int,
    options: Sequence[str],
    settings: SlurmSettings,
    log: Path,
    waiting: Callable[[str], None],
) -> SlurmAgents:
    """Start `command` on `machines` nodes, and return when Slurm has them free at the same time.

    options: of srun, for what an agent needs. log: for the output. waiting: is called with what is waited for.

    Raises:
        ConfigError: the cluster does not have that many such nodes.
        StageError: Slurm refuses the job.
    """
    options = [f"--nodes={machines}", "--ntasks-per-node=1", *options]
    patiently(lambda: check_options(options), "the agents of a training", waiting)
    name = f"xdc-agents-{uuid.uuid4().hex[:12]}"
    script = "\n".join([*settings.setup, f"exec {shlex.join(command)}"])
    whole = [
        *("srun", f"--job-name={name}", "--input=none", "--label", f"--signal=TERM@{settings.grace}"),
        # Others would wait for an agent that has failed. If all were asked to end they need time for a checkpoint.
        *("--kill-on-bad-exit=0", f"--wait={settings.grace}", *options, "sh", "-c", script),
    ]
    stage, before = os.getpid(), log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        process = subprocess.Popen(
            whole,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(),
            preexec_fn=lambda: die_with_parent(signal.SIGTERM, stage),  # It cancels its job.
            process_group=0,  # A signal to this process's group reaches the agents through this process alone.
        )
    agents = SlurmAgents(name, process)
    try:
        _wait_for_start(agents, log, before, waiting)
    except BaseException:
        agents.kill()
        raise
    return agents


def _wait_for_start(agents: SlurmAgents, log: Path, before: int, waiting: Callable[[str], None]) -> None:
    """Wait while the job waits in Slurm's queue, for which there is no limit. before: size of the log at the start."""
    pause = ASK_S
    while agents.process.poll() is None:
        try:
            active = states(f"--name={agents.name}")
            if "running" in active:
                return
            waiting(f"Slurm: {', '.join(active) or 'submitted'}")
        except NoAnswer as error:
            waiting(f"Slurm does not answer: {error}")
        time.sleep(pause)
        pause = min(1.5 * pause, LONGEST_ASK_S)
    if agents.process.returncode:
        with log.open("rb") as file:
            file.seek(before)
            said = file.read().decode("utf-8", "replace").strip().splitlines()
        raise StageError(
            f"Slurm did not start the agents of the training: {said[-1] if said else agents.process.returncode}. See "
            f"{log}, correct runs_on.executor_settings, and run this again."
        )
