"""Slurm's command-line tools: submit, look, cancel. Nothing else of Slurm is needed on the machine of the stage."""

import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from shards.errors import ConfigError, StageError

TOOLS = ("sbatch", "squeue", "scancel", "sinfo", "scontrol")
ANSWER_S = 60.0  # Seconds that a tool may take.
# States of `man squeue` in which a task does no more work.
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "COMPLETING", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "SPECIAL_EXIT", "TIMEOUT"),
}


class NoAnswer(Exception):
    """Report that Slurm's controller does not answer. Jobs go on without it."""


@dataclass(frozen=True)
class Ended:
    """A task of an array, or a job, that has ended otherwise than by finishing.

    task: its number in the array. state, reason: in Slurm's words. exit: exit code and signal, as `1:0`. nodes:
    where it ran.
    """

    task: str
    state: str
    reason: str
    exit: str
    nodes: str

    def __str__(self) -> str:
        return f"{self.state} (reason {self.reason}, exit code and signal {self.exit}) on {self.nodes}"


def call(*words: str, given: str = "") -> str:
    """Return what a tool prints. given: its standard input.

    Raises:
        NoAnswer: it failed, or took too long; the text is what it said.
    """
    try:
        done = subprocess.run(
            words, input=given, capture_output=True, text=True, timeout=ANSWER_S, check=False, env=environment()
        )
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{words[0]} has not answered for {ANSWER_S:.0f} s") from None
    except OSError as error:
        raise NoAnswer(f"{words[0]}: {error.strerror}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NoAnswer(re.sub(r"^\w+: error: ", "", said[-1]))
    return done.stdout


def environment() -> dict[str, str]:
    """Return the environment for the tools: without what describes the job in which the stage itself may run.

    A new job would take its sizes from there.
    """
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name in kept}


def check_partition(partition: str | None) -> None:
    """Check that Slurm answers and has a partition.

    Raises:
        ConfigError: it does not.
    """
    try:
        partitions = call("sinfo", "--noheader", "--format=%R").split()
    except NoAnswer as error:
        raise ConfigError(
            f"runs_on.executor is slurm, but Slurm does not answer: {error}. Start xdc on a machine of the cluster, or "
            "set runs_on.executor to local."
        ) from error
    if partition is not None and (unknown := set(partition.split(",")) - set(partitions)):
        raise ConfigError(
            f"runs_on.executor_settings.partition: Slurm has no partition {', '.join(sorted(unknown))}. There are: "
            f"{', '.join(dict.fromkeys(partitions))}."
        )


def check_options(options: list[str]) -> None:
    """Check that Slurm can run a task with these options of sbatch, now or later.

    Raises:
        ConfigError: it cannot: such a job would wait for ever.
    """
    try:
        call("sbatch", "--test-only", *options, given="#!/bin/sh\n")
    except NoAnswer as error:
        if "down, drained" not in str(error):  # Machines may come back.
            raise ConfigError(
                f"runs_on.executor_settings: Slurm cannot run a task with {' '.join(options)}: {error}. Ask for "
                "what the cluster has (gpus: 0 if it has none; runs_on.nodes: machines per training)."
            ) from error


def largest_array() -> int:
    """Return how many tasks one array of this cluster can have (MaxArraySize). Raises NoAnswer."""
    for line in call("scontrol", "show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize":
            return int(value)
    return 1


def submit(options: list[str], script: str) -> str:
    """Submit a batch script; return the job's number.

    Raises:
        StageError: Slurm refuses it, or does not answer.
    """
    try:
        return call("sbatch", "--parsable", *options, given=script).strip().split(";")[0]
    except NoAnswer as error:
        raise StageError(
            f"sbatch: {error}. The options were: {' '.join(options)}. Correct runs_on.executor_settings, and run this "
            "again; what is finished is kept."
        ) from error


def states(job: str) -> Mapping[str, int]:
    """Return the states in which the tasks of a job are that have not ended, with reasons, and how many there are.

    The waiting tasks of an array count as one. Empty if all have ended. Raises NoAnswer.
    """
    try:
        lines = call("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T %r").splitlines()
    except NoAnswer as error:
        if "Invalid job id" in str(error):  # It ended so long ago that Slurm has forgotten it.
            return {}
        raise
    return Counter(line.strip().removesuffix(" None").lower() for line in lines if line.split()[0] not in ENDED)


def failure(job: str) -> Ended | None:
    """Return how a task of a job failed: the last one of which Slurm still knows; None if it knows of none."""
    try:
        lines = call("scontrol", "--oneliner", "show", "job", job).splitlines()
    except NoAnswer:
        return None
    for line in lines:
        values = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if values.get("JobState") in ENDED - {"COMPLETED", "COMPLETING"}:
            names = ("ArrayTaskId", "JobState", "Reason", "ExitCode", "NodeList")
            return Ended(*(values.get(name, "unknown") for name in names))
    return None


def running(name: str) -> bool:
    """Return whether a job with a name runs. Raises NoAnswer."""
    return bool(call("squeue", "--noheader", "--states=RUNNING", f"--name={name}", "--format=%A").strip())


def cancel(name: str, *options: str) -> None:
    """Cancel all jobs with a name, if there are some. options: further ones of scancel. Raises NoAnswer."""
    call("scancel", f"--name={name}", *options)
