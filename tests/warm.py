"""Processes for single stages that need not import torch: forks of one that has done nothing but that.

`warm(code, ...)` is what `subprocess.Popen([sys.executable, "-c", code, ...])` would be, some seconds sooner, with what
tests of deaths use of `Popen`.
"""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.places import ROOT

STAGE = "from xdc_core.__main__ import main; sys.exit(main(sys.argv[1:]))"  # As `python -m xdc_core` does.


class WarmProcess:
    """A running or ended process, the leader of its process group; its output lies in files of `folder`."""

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder, self.pid = folder, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with suppress(FileNotFoundError):
            self.returncode = int((self.folder / "exit").read_text())
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + (600 if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 600)
            time.sleep(0.005)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it wrote to stdout and stderr."""
        self.wait(timeout)
        return (self.folder / "stdout").read_text(), (self.folder / "stderr").read_text()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


_server: "subprocess.Popen[str] | None" = None


def warm(code: str, *arguments: object, env: Mapping[str, str] | None = None) -> WarmProcess:
    """Start a process that does `code` (which has `sys`) with these arguments, in the repository's root."""
    global _server
    if _server is None or _server.poll() is not None:
        command = [sys.executable, "-m", "tests.warm"]
        _server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(_server.kill)
    assert _server.stdin
    assert _server.stdout
    folder = Path(tempfile.mkdtemp(prefix="xdc-warm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    request = {
        "code": code,
        "arguments": [str(argument) for argument in arguments],
        "env": dict(os.environ if env is None else env),
        "folder": str(folder),
    }
    _server.stdin.write(json.dumps(request) + "\n")
    _server.stdin.flush()
    return WarmProcess(folder, int(_server.stdout.readline()))


def _serve() -> None:
    """Fork for each request of stdin, and answer with the process id."""
    from tests.preload import preload

    answers = os.dup(1)
    os.dup2(2, 1)
    preload()
    while line := sys.stdin.buffer.raw.readline():  # type: ignore[attr-defined]
        if os.fork() == 0:
            _keep(json.loads(line), answers)
        with suppress(ChildProcessError):  # Keepers that have ended.
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _keep(request: dict[str, Any], answers: int) -> None:
    """Fork once more, to be there when that process ends and to note how."""
    folder = Path(request["folder"])
    process = os.fork()
    if process == 0:
        _work(request, folder)
    os.setpgid(process, process)
    os.write(answers, f"{process}\n".encode())
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    (folder / "exit.new").write_text(str(code))
    (folder / "exit.new").rename(folder / "exit")
    os._exit(0)


def _work(request: dict[str, Any], folder: Path) -> None:
    code = 1
    try:
        with suppress(PermissionError):
            os.setpgid(0, 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(request["env"])
        from shards.store.fault import arm

        arm(os.environ.get("XDC_FAULT"))
        sys.argv = ["-c", *request["arguments"]]
        exec(compile(request["code"], "<warm>", "exec"), {"__name__": "__warm__", "sys": sys})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - the boundary of the process, as the interpreter itself does it
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
