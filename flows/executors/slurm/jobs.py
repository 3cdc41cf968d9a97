"""Slurm's jobs: submission, states, cancellation."""

import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flows.executors.slurm.tools import NoAnswer, Refusal, call, environment, patiently
from shards.errors import StageError

CANCEL_S = 8.0  # Seconds to wait for scancel: a stage that is asked to end has GRACE_S (flows/runners/fork_server.py).
# States of `man squeue` in which a task does no more work.
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "COMPLETING", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "SPECIAL_EXIT", "TIMEOUT"),
}


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


def submit(name: str, options: list[str], script: str, waiting: Callable[[str], None]) -> str:
    """Submit a batch script as a job with a name; return its number. waiting: see `patiently`.

    Raises:
        StageError: Slurm refuses it, or does not answer.
    """
    before, asked = _numbers(name, waiting), False

    def ask() -> str:
        nonlocal asked
        if asked and (new := set(_jobs(name)) - before):  # It was accepted, and the answer was lost.
            return max(new, key=int)
        asked = True
        return call("sbatch", "--parsable", f"--job-name={name}", *options, given=script).strip().split(";")[0]

    try:
        return patiently(ask, name, waiting)
    except Refusal as error:
        raise StageError(
            f"sbatch: {error}. The options were: {' '.join(options)}. Correct runs_on.executor_settings, and run this "
            "again; what is finished is kept."
        ) from error


def _numbers(name: str, waiting: Callable[[str], None]) -> set[str]:
    try:
        return patiently(lambda: set(_jobs(name)), name, waiting)
    except Refusal:
        return set()


def _jobs(name: str) -> list[str]:
    """Return the numbers of all jobs with a name that Slurm knows. Raises NoAnswer, Refusal."""
    return call("squeue", "--noheader", "--states=all", f"--name={name}", "--format=%F").split()


def states(which: str) -> Mapping[str, int]:
    """Return the states in which the tasks of a job are that have not ended, with reasons, and how many there are.

    which: `--jobs=NUMBER` or `--name=NAME`. The waiting tasks of an array count as one. Empty if all have
    ended. Raises NoAnswer.
    """
    try:
        lines = call("squeue", "--noheader", "--states=all", which, "--format=%T %r").splitlines()
    except Refusal as error:
        if "Invalid job id" in str(error):  # It ended so long ago that Slurm has forgotten it.
            return {}
        raise NoAnswer(str(error)) from error
    return Counter(line.strip().removesuffix(" None").lower() for line in lines if line.split()[0] not in ENDED)


def failure(job: str) -> Ended | None:
    """Return how a task of a job failed; None if Slurm knows of none.

    What Slurm alone can say, as OUT_OF_MEMORY, comes before FAILED: such a task has written what it failed of.
    """
    try:
        lines = call("scontrol", "--oneliner", "show", "job", job).splitlines()
    except (NoAnswer, Refusal):
        return None
    found = []
    for line in lines:
        values = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if values.get("JobState") in ENDED - {"COMPLETED", "COMPLETING"}:
            names = ("ArrayTaskId", "JobState", "Reason", "ExitCode", "NodeList")
            found.append(Ended(*(values.get(name, "unknown") for name in names)))
    return min(found, key=lambda ended: ended.state == "FAILED", default=None)


def cancel(*words: str) -> None:
    """Cancel jobs. words: for scancel, as `--name=NAME`, or a job's number. It may go on after this has returned.

    Raises:
        NoAnswer: it has not ended within CANCEL_S, or failed.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            ["scancel", *words],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=environment(),
            start_new_session=True,  # What ends this process, or its group, does not end it.
        )
        try:
            code = process.wait(CANCEL_S)
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"scancel has not answered for {CANCEL_S:.0f} s, and is still trying") from None
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").strip().splitlines() or [f"exit code {code}"]
    if code and "Invalid job id" not in lines[-1]:
        raise NoAnswer(lines[-1])
