"""The calling of Slurm's command-line tools, and what they say of the cluster. Nothing else of Slurm is needed."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

from shards.errors import ConfigError, StageError

TOOLS = ("sbatch", "squeue", "scancel", "sinfo", "scontrol")
ANSWER_S = 60.0  # Seconds that a tool may take.
PATIENCE_S = 3600.0  # Seconds without an answer of Slurm after which a stage gives up.
AGAIN_S, LONGEST_AGAIN_S = 2.0, 60.0  # Seconds between two tries while Slurm does not answer.
# What the tools say while the controller is away or busy. Everything else is a refusal.
AWAY = re.compile(
    "timed out|unable to contact|unable to connect|connect failure|communication connection|connection refused|"
    "connection reset|zero bytes were transmitted|standby mode|temporarily|try again|no route to host|"
    "unable to establish|transport endpoint",
    re.IGNORECASE,
)
Answer = TypeVar("Answer")


class NoAnswer(Exception):
    """Report that Slurm's controller does not answer, for now. Jobs go on without it."""


class Refusal(Exception):
    """Report what Slurm answered instead of doing what it was asked for; the same question is refused again."""


def call(*words: str, given: str = "") -> str:
    """Return what a tool prints. given: its standard input.

    Raises:
        NoAnswer: it took too long, or did not reach the controller.
        Refusal: it failed otherwise. The text is what it said.
    """
    try:
        done = subprocess.run(
            words, input=given, capture_output=True, text=True, timeout=ANSWER_S, check=False, env=environment()
        )
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{words[0]} has not answered for {ANSWER_S:.0f} s") from None
    except OSError as error:
        raise Refusal(f"{words[0]}: {error.strerror}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        kind = NoAnswer if AWAY.search(done.stderr) else Refusal
        raise kind(re.sub(r"^\w+: error: ", "", lines[-1]))
    return done.stdout


def patiently(ask: Callable[[], Answer], name: str, waiting: Callable[[str], None]) -> Answer:
    """Return the answer of `ask`, which is called again for an hour while Slurm does not answer.

    name: what it is for, in messages. waiting: is called with the reason.

    Raises:
        StageError: there was no answer.
        Refusal: as `ask`.
    """
    deadline, pause = time.monotonic() + PATIENCE_S, AGAIN_S
    while True:
        try:
            return ask()
        except NoAnswer as error:
            if time.monotonic() > deadline:
                raise StageError(f"{name}: Slurm does not answer: {error}. Run this again when it does.") from error
            waiting(f"Slurm does not answer: {error}")
        time.sleep(pause)
        pause = min(1.5 * pause, LONGEST_AGAIN_S)


def environment() -> dict[str, str]:
    """Return the environment for the tools: without what describes the job in which the stage itself may run.

    A new job would take its sizes from there.
    """
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name in kept}


def check_partition(partition: str | None) -> None:
    """Check that Slurm has a partition.

    Raises:
        ConfigError: it does not.
        NoAnswer, Refusal: it does not say which there are.
    """
    partitions = call("sinfo", "--noheader", "--format=%R").split()
    if partition is not None and (unknown := set(partition.split(",")) - set(partitions)):
        raise ConfigError(
            f"runs_on.executor_settings.partition: Slurm has no partition {', '.join(sorted(unknown))}. There are: "
            f"{', '.join(dict.fromkeys(partitions))}."
        )


def has_gpus(partition: str | None) -> bool:
    """Return whether nodes of a partition have GPUs; None: of the default one. Raises NoAnswer, Refusal."""
    lines = call("sinfo", "--noheader", "--format=%P %G", *([f"--partition={partition}"] if partition else []))
    nodes = [line.split(None, 1) for line in lines.splitlines() if line.strip()]
    return any("gpu" in resources for name, resources in nodes if partition or name.endswith("*"))


def check_options(options: list[str]) -> None:
    """Check that Slurm can run a task with these options of sbatch, now or later.

    Raises:
        ConfigError: it cannot: such a job would wait for ever.
        NoAnswer: it does not say so.
    """
    try:
        call("sbatch", "--test-only", *options, given="#!/bin/sh\n")
    except Refusal as error:
        if "down, drained" not in str(error):  # Machines may come back.
            raise ConfigError(
                f"runs_on.executor_settings: Slurm cannot run a task with {' '.join(options)}: {error}. Ask for "
                "what the cluster has (gpus: 0 if it has none; runs_on.nodes: machines per training)."
            ) from error


def largest_array() -> int:
    """Return how many tasks one array of this cluster can have (MaxArraySize).

    Raises:
        ConfigError: arrays are disabled.
        NoAnswer, Refusal: Slurm does not say so.
    """
    for line in call("scontrol", "show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize":
            if int(value) == 0:
                raise ConfigError(
                    "runs_on.executor is slurm, but job arrays are disabled in this cluster (MaxArraySize is 0). Ask "
                    "its administrator for them, or set runs_on.executor to local."
                )
            return int(value)
    return 1
