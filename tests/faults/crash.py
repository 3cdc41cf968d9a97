"""Work in forked processes that die at a named point or at some instant, and what they leave running."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from shards.store.fault import arm

MARK = "XDC_FAULT_SWEEP"  # Set in the environment of all that is started: survivors are found by it.


def forked(work: Callable[[], object], log: Path, order: str | None = None) -> int:
    """Do `work` in a fork of this process, in a session of its own, with a fault armed. Returns its process id.

    It ends with 0, or with 1 after an error, whose traceback is in `log`.
    """
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        os.environ[MARK] = str(os.getpid())
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        arm(order)
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - the boundary of the process: told by its exit code and the log
        os.write(2, traceback.format_exc().encode())  # Not to what pytest has put in stderr's place.
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(process: int) -> int:
    """Wait for a fork; its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _stat(process: str) -> list[str] | None:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None


def family(leader: int, mark: str | None = None) -> set[int]:
    """The living processes of a leader's session, those below it, and those that inherited its mark."""
    told = f"{MARK}={mark or leader}\0".encode()
    parents: dict[int, int] = {}
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _stat(entry.name)
        if fields is None or fields[0] == "Z":
            continue
        number = int(entry.name)
        parents[number] = int(fields[1])
        if int(fields[3]) == leader or _marked(entry, told):
            found.add(number)
    for number in parents:
        above, line = number, []
        while above in parents and above != leader:
            line.append(above)
            above = parents[above]
        if above == leader:
            found |= {*line, *({leader} & parents.keys())}
    return found - {os.getpid()}


def _marked(entry: Path, told: bytes) -> bool:
    try:
        return told in (entry / "environ").read_bytes()
    except OSError:
        return False


def kill_tree(leader: int, mark: str | None = None) -> None:
    """SIGKILL to a process and all that it has started, none of them given time to notice the others' end."""
    known: set[int] = set()
    while new := family(leader, mark) - known:
        for process in new:
            _send(process, signal.SIGSTOP)
        known |= new
    for process in known:
        _send(process, signal.SIGKILL)


def _send(process: int, number: signal.Signals) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return


def survivors(leader: int, seconds: float = 20, mark: str | None = None) -> set[int]:
    """Who of a family is still there after so many seconds; empty as soon as nobody is."""
    deadline = time.monotonic() + seconds
    while (left := family(leader, mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
