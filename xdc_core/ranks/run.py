"""The ranks of one training: the stage has them started, hears from them, and waits until they have ended."""

import platform
import shlex
import socket
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from shards.errors import ConfigError, StageError
from shards.store.stage import Task
from shards.version import package_version
from xdc_core.compute.sigterm import sigterm_recorded
from xdc_core.config.schema import RunsOn
from xdc_core.ranks.channel import Channel, Message, open_channel
from xdc_core.ranks.job import FOLDER, JOB, RESTARTS, TIMEOUT_S, RankJob, write_job
from xdc_core.ranks.launcher import AgentHere, Agents, Launcher

POLL_S = 0.05
NOTE_S = 2.0  # Between two notes of what is waited for.
# For a checkpoint, after the ranks were asked to end; torch's agent kills them after 30 s.
GRACE_S = 40.0


def run_ranks(
    task: Task[Any], work: str, arguments: list[str], processes: int, log: Path, listen: Callable[[Any], None]
) -> None:
    """Run the ranks of one training on `runs_on.nodes` machines, and wait until all of them have ended.

    work: "module:function", called in every rank with (document of the task, arguments, send). processes: the number of
    all ranks, a multiple of the number of machines. listen: is called with each value that a rank sends; all other
    output goes to `log`, or with several machines to one file per machine in the run's logs/ranks/. After SIGTERM the
    ranks write a checkpoint.

    Raises:
        ConfigError, StageError: a rank failed (with its error, or the end of its log), the machines did not come, or
            SIGTERM ended the ranks.
    """
    runs_on: RunsOn = task.settings.runs_on
    folder = ranks_folder(task)
    host, port = _address(runs_on)
    identity = uuid.uuid4().hex
    several = runs_on.nodes > 1
    with open_channel(host, port, identity) as channel:
        job = RankJob(
            name=str(task.node),
            work=work,
            document=task.document,
            arguments=arguments,
            machines=runs_on.nodes,
            processes=processes // runs_on.nodes,
            host=host,
            port=channel.port,
            identity=identity,
            timeout=runs_on.ranks_timeout or TIMEOUT_S,
            restarts=_restarts(runs_on),
            logs=str(folder) if several else None,
            version=package_version(),
        )
        write_job(folder / JOB, job)
        try:
            # What agents write before they have a log of their own.
            start_log = folder / "start.log" if several and isinstance(task.executor, Launcher) else log
            _Ranks(task, job, channel, start_log, listen).wait(_start(task, job, folder, start_log))
        finally:
            (folder / JOB).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()


def ranks_folder(task: Task[Any]) -> Path:
    """Return the folder for the job file and the machines' logs of a task, such as RUN/logs/ranks/000-train.video."""
    number = "" if task.node.round is None else f"{task.node.round:03d}-"
    return task.root.resolve() / FOLDER / f"{number}{task.node.name}"


def _restarts(runs_on: RunsOn) -> int:
    """Return how often the ranks are started again. On one machine the stage's caller can do it as well."""
    if runs_on.restarts is not None:
        return runs_on.restarts
    return RESTARTS if runs_on.nodes > 1 else 0


def _address(runs_on: RunsOn) -> tuple[str, int]:
    """Return the address of the stage for its agents; port 0: any free one."""
    if runs_on.nodes == 1:
        return "127.0.0.1", 0
    host, _, port = (runs_on.rendezvous or _own_host()).partition(":")
    return host, int(port or 0)


def _own_host() -> str:
    """Return this machine's address; its name, if only other machines know an address for it."""
    name = platform.node()
    try:
        address = socket.gethostbyname(name)  # In Kubernetes only the pod itself knows an address for its name.
    except OSError:
        return name
    return name if address.startswith("127.") else address


def _start(task: Task[Any], job: RankJob, folder: Path, log: Path) -> Agents:
    command = [sys.executable, "-m", "xdc_core.ranks.agent", str(folder / JOB)]
    if job.machines > 1 and isinstance(task.executor, Launcher):
        gpu = task.settings.runs_on.device != "cpu"
        waiting = partial(task.progress, 0, job.machines)
        return task.executor.start_agents(command, job.machines, job.processes, gpu, log, waiting)
    return AgentHere(command, log)


@dataclass
class _Ranks:
    """The ranks of a training while they run, as the stage sees them."""

    task: Task[Any]
    job: RankJob
    channel: Channel
    start_log: Path  # What agents write before they have a log of their own.
    listen: Callable[[Any], None]
    # From agents that have started, by host and process.
    machines: dict[tuple[str, str], Message] = field(default_factory=dict)
    errors: list[Message] = field(default_factory=list)
    failures: list[Message] = field(default_factory=list)
    noted: float = 0.0

    def wait(self, agents: Agents) -> None:
        """Wait, then raise what ended the ranks, if they have not ended well."""
        try:
            with sigterm_recorded() as sigterm_came:
                code = self._until_ended(agents, sigterm_came)
        except BaseException:
            self.channel.stop()
            _wait_or_kill(agents, time.monotonic() + 15)
            raise
        if self.errors:  # The first rank that failed; the others failed because of it.
            error = self.errors[0]
            kind = ConfigError if error.value == "ConfigError" else StageError
            raise kind(f"{error.text} ({error.host}: {error.log})" if error.log else error.text)
        if code and sigterm_came():
            raise StageError(
                f"SIGTERM ended the processes of {self.task.node}. Run it again: it continues from its last checkpoint."
            )
        if code:
            raise StageError(self._what_failed(code))

    def _until_ended(self, agents: Agents, sigterm_came: Callable[[], bool]) -> int:
        """Hear from the ranks until all agents have ended. Return the first exit code of a failed one, else 0."""
        started, deadline, failed = time.monotonic(), float("inf"), 0
        stopped = False
        while True:
            codes = agents.poll()  # Before the messages: none is missed.
            for message in self.channel.received():
                self._take(message)
            failed = failed or next((code for code in codes if code), 0)
            if None not in codes:
                return failed
            complete = len(self.machines) >= self.job.machines
            if not (complete or self.errors):
                self._note_waiting(time.monotonic() - started)
            if (self.errors or failed or sigterm_came()) and not stopped:
                stopped = True
                self.channel.stop()
                # While machines are missing there are no ranks, which would write a checkpoint.
                deadline = time.monotonic() + (GRACE_S if complete else 0)
            if time.monotonic() > deadline:
                deadline = float("inf")
                agents.kill()
            time.sleep(POLL_S)

    def _take(self, message: Message) -> None:
        match message.kind:
            case "value":
                self.listen(message.value)
            case "machine":
                self.machines[message.host, message.value] = message
            case "error":
                self.errors.append(message)
            case "failure":
                self.failures.append(message)

    def _note_waiting(self, seconds: float) -> None:
        """Show which machines are waited for. After the timeout it is an error."""
        if self.job.machines == 1:
            return
        came = f"{len(self.machines)} of {self.job.machines} machines came{self._named()}"
        start = shlex.join(["python", "-m", "xdc_core.ranks.join", str(self.task.root.resolve())])
        by_hand = "" if isinstance(self.task.executor, Launcher) else f" On each other machine, run: {start}"
        if seconds > self.job.timeout:
            within = f"within {self.job.timeout:g} s (runs_on.ranks_timeout)"
            self.errors.append(Message("error", "StageError", f"{self.task.node}: {came} {within}.{by_hand}"))
        elif time.monotonic() - self.noted > NOTE_S:
            self.noted = time.monotonic()
            self.task.progress(len(self.machines), self.job.machines, f"machines came{self._named()}.{by_hand}")

    def _named(self) -> str:
        return f" ({', '.join(host for host, _ in self.machines)})" if self.machines else ""

    def _what_failed(self, code: int) -> str:
        """Return a message with the first failure of the ranks' last start, and the end of the logs."""
        said = f"{self.task.node}: torchrun ended with exit code {code}."
        logs = [self.start_log, *(Path(message.log) for message in self.machines.values() if message.log)]
        if self.failures:
            start = max(message.value["start"] for message in self.failures)
            last = [message for message in self.failures if message.value["start"] == start]
            # Of a rank that was killed its agent hears after other ranks have lost their connection with it.
            first = min(last, key=lambda message: not message.value["killed"])
            said += f" Rank {first.value['rank']} on {first.host} failed first: {first.text}."
            logs = [Path(first.log or self.start_log)]
        return said + "".join(f" The end of {log}:\n{end}" for log in dict.fromkeys(logs) if (end := _end(log)))


def _end(log: Path, lines: int = 15) -> str:
    """Return the last lines of a file; "" if it is not there."""
    try:
        return "".join(log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[-lines:])
    except FileNotFoundError:
        return ""


def _wait_or_kill(agents: Agents, deadline: float) -> None:
    while None in agents.poll():
        if time.monotonic() > deadline:
            agents.kill()
            return
        time.sleep(POLL_S)
