"""The parent's side of a fork server: requests, answers, and the ends of children."""

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from flows.executors.process_output import how_ended, last_error, last_line, written
from shards.errors import Busy, ConfigError, NoPictures, NoSounds, StageError, XdcError
from shards.progress import Progress

ERRORS: dict[str, type[XdcError]] = {kind.__name__: kind for kind in (ConfigError, Busy, NoPictures, NoSounds)}


SEND_S = 60.0  # A request waits for the server's imports if the pipe is full.


class ServerProcess:
    """One fork server and the threads that wait for its children."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        # Errors of the server itself, such as of imports. Those of a stage go to its log.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - open for the life of this object
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.runners.fork_server", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            bufsize=1,
            # A library that looks for a GPU must not start CUDA in a process that will be forked. Each child checks
            # its GPU itself (xdc_core/compute/device.py, which unsets this).
            env=os.environ | {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
        )
        # Tracebacks of packages that the server could not import. They do not explain its end.
        self.not_imported: list[str] = []
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            self.not_imported += message.get("not imported", [])
            if waiting := self._waiting.get(message.get("id", 0)):
                waiting.put(message)
        for waiting in list(self._waiting.values()):
            waiting.put(None)

    def _send(self, message: dict[str, Any]) -> bool:
        """Send a message, and return whether it could be sent: the server may be dead or closed."""
        assert self._process.stdin is not None
        with self._lock:
            try:
                self._process.stdin.write(json.dumps(message) + "\n")
            except (OSError, ValueError):
                return False
        return True

    @property
    def process_id(self) -> int:
        """Return the process id of the server, the parent of the children."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether the server can take requests."""
        return self._process.poll() is None

    def run(self, request: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """Run a stage in a child. Return its record (without the summary) when it has finished.

        `request`: see `flows/runners/fork_server.py`; its "id" is added here.

        Raises:
            StageError, ConfigError, Busy: what the stage raised, or that its process died.
            Exception: what `progress` raises; the child then gets SIGTERM.
        """
        number = next(self._numbers)
        answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._waiting[number] = answers
        log = Path(request["log"])
        before = (log.stat().st_size if log.exists() else 0, os.fstat(self._stderr.fileno()).st_size)
        error: XdcError | None = None
        record: dict[str, Any] = {}
        ended = False
        try:
            if not self._send(request | {"id": number}):
                raise self._died(log)
            while True:
                match answers.get():
                    case None:
                        raise self._died(log)
                    case {"progress": [done, total, note]}:
                        progress(done, total, note)
                    case {"record": dict(answer)}:
                        record = answer
                    case {"error": ["defect", text]}:
                        error = StageError(f"{text}. This is a defect of xdc; the traceback is in {log}")
                    case {"error": [kind, text]}:
                        error = ERRORS.get(kind, StageError)(text)
                    case {"exit": 0}:
                        return record
                    case {"exit": code}:
                        ended = True
                        raise error or self._child_died(how_ended(code), log, before)
        except BaseException:
            if not ended:
                self._send({"cancel": number})
            raise
        finally:
            del self._waiting[number]

    def _died(self, log: Path) -> StageError:
        """Return the error for this server's end. Its output goes to the log of the stage that was not run."""
        code: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(5)
        output = written(self._stderr.fileno())
        if code is None:
            what = "the process that starts the stages does not answer any more, and is being stopped"
        else:
            # If a signal ended it, errors that it wrote earlier are not the cause.
            last = last_line(output) if code < 0 else last_error(output)
            what = f"the process that starts the stages died: it {how_ended(code)}{_last(last)}"
        _append(log, f"{''.join(self.not_imported)}{output}{what}.\n")
        return StageError(f"{what}; see {log}, and run again.")

    def _child_died(self, how: str, log: Path, before: tuple[int, int]) -> StageError:
        """Return the error for a child that ended without an answer.

        `before`: sizes of its log and of the server's stderr when it started, in bytes.
        """
        output = ""
        with contextlib.suppress(OSError), log.open("rb") as file:
            output = written(file.fileno(), before[0])
        if not output:  # It could not open its log.
            output = written(self._stderr.fileno(), before[1])
        _append(log, f"The stage's process {how}.\n")
        return StageError(f"the stage's process {how}{_last(last_error(output))}; see {log}, and run again.")

    def end(self) -> None:
        """Ask the server to end its children and itself. Return at once."""
        assert self._process.stdin is not None
        if not self._lock.acquire(timeout=SEND_S):  # A request does not go through: the server is stopped, or hangs.
            self._process.kill()
            return
        try:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        finally:
            self._lock.release()

    def wait(self) -> None:
        """Wait until the server and its children have ended."""
        self._process.wait()


def _last(line: str) -> str:
    return f". Its last output: {line}" if line else ""


def _append(log: Path, text: str) -> None:
    """Append to a log. If it cannot be written, the error message alone must suffice."""
    with contextlib.suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(text)
