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
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shards.errors import ConfigError, StageError
from shards.store.stage import Task
from xdc_core.compute.sigterm import sigterm_recorded
from xdc_core.config.schema import RunsOn
from xdc_core.ranks.job import FOLDER, JOB, RankJob, write_job
from xdc_core.ranks.launcher import AgentHere, Agents, Launcher
from xdc_core.ranks.mailbox import Letter, Mailbox, open_mailbox

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
    with open_mailbox(host, port) as mailbox:
        job = RankJob(
            name=str(task.node),
            work=work,
            document=task.document,
            arguments=arguments,
            machines=runs_on.nodes,
            processes=processes // runs_on.nodes,
            host=host,
            port=mailbox.port,
            identity=uuid.uuid4().hex,
            timeout=runs_on.ranks_timeout,
            restarts=runs_on.restarts,
            logs=str(folder) if runs_on.nodes > 1 else None,
            version=version("xdc"),
        )
        write_job(folder / JOB, job)
        try:
            _Waiting(task, job, mailbox, log, listen).run(_start(task, job, folder, log))
        finally:
            (folder / JOB).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()


def ranks_folder(task: Task[Any]) -> Path:
    """Return the folder for the job file and the machines' logs of a task, such as RUN/logs/ranks/000-train.video."""
    number = "" if task.node.round is None else f"{task.node.round:03d}-"
    return task.root.resolve() / FOLDER / f"{number}{task.node.name}"


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
        log = folder / "start.log"
        return task.executor.start_agents(command, job.machines, job.processes, gpu, log, waiting)
    return AgentHere(command, log)


@dataclass
class _Waiting:
    """The time until the ranks have ended."""

    task: Task[Any]
    job: RankJob
    mailbox: Mailbox
    log: Path
    listen: Callable[[Any], None]
    came: list[str] = field(default_factory=list)  # Hosts.
    errors: list[Letter] = field(default_factory=list)
    failures: list[Letter] = field(default_factory=list)
    noted: float = 0.0

    def run(self, agents: Agents) -> None:
        """Wait, then raise what ended the ranks, if they have not ended well."""
        try:
            with sigterm_recorded() as sigterm_came:
                code = self._until_ended(agents, sigterm_came)
        except BaseException:
            self.mailbox.stop()
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
            codes = agents.poll()  # Before the letters: none is missed.
            for letter in self.mailbox.letters():
                self._take(letter)
            failed = failed or next((code for code in codes if code), 0)
            if None not in codes:
                return failed
            complete = len(self.came) >= self.job.machines
            if not (complete or self.errors):
                self._note_waiting(time.monotonic() - started)
            if (self.errors or failed or sigterm_came()) and not stopped:
                stopped = True
                self.mailbox.stop()
                # While machines are missing there are no ranks, which would write a checkpoint.
                deadline = time.monotonic() + (GRACE_S if complete else 0)
            if time.monotonic() > deadline:
                deadline = float("inf")
                agents.kill()
            time.sleep(POLL_S)

    def _take(self, letter: Letter) -> None:
        match letter.kind:
            case "value":
                self.listen(letter.value)
            case "machine":
                self.came.append(letter.host)
            case "error":
                self.errors.append(letter)
            case "failure":
                self.failures.append(letter)

    def _note_waiting(self, seconds: float) -> None:
        """Show which machines are waited for. After the timeout it is an error."""
        if self.job.machines == 1:
            return
        came = f"{len(self.came)} of {self.job.machines} machines came{self._named()}"
        start = shlex.join(["python", "-m", "xdc_core.ranks.join", str(self.task.root.resolve())])
        by_hand = "" if isinstance(self.task.executor, Launcher) else f" On each other machine, run: {start}"
        if seconds > self.job.timeout:
            within = f"within {self.job.timeout:g} s (runs_on.ranks_timeout)"
            self.errors.append(Letter("error", "StageError", f"{self.task.node}: {came} {within}.{by_hand}"))
        elif time.monotonic() - self.noted > NOTE_S:
            self.noted = time.monotonic()
            self.task.progress(len(self.came), self.job.machines, f"machines came{self._named()}.{by_hand}")

    def _named(self) -> str:
        return f" ({', '.join(self.came)})" if self.came else ""

    def _what_failed(self, code: int) -> str:
        """Return a message with the first failure of the ranks' last start, or the end of the log."""
        said = f"{self.task.node}: torchrun ended with exit code {code}."
        log = self.log
        if self.failures:
            starts = max(letter.value["restart"] for letter in self.failures)
            first = next(letter for letter in self.failures if letter.value["restart"] == starts)
            said += f" Rank {first.value['rank']} on {first.host} failed first: {first.text}."
            log = Path(first.log or log)
        tail = "".join(log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[-15:])
        return f"{said} The end of {log}:\n{tail}"


def _wait_or_kill(agents: Agents, deadline: float) -> None:
    while None in agents.poll():
        if time.monotonic() > deadline:
            agents.kill()
            return
        time.sleep(POLL_S)
