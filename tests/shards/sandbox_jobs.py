"""What the child processes of the sandbox are given to do in its tests. Imports little, so that they start quickly."""

import ctypes
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from shards.errors import MediaError, SourceError


def after(seconds: float, number: int) -> tuple[int, int]:
    """Wait, then give back the number and the process."""
    time.sleep(seconds)
    return number, os.getpid()


def behave(how: str, number: int) -> int:
    """Do well, or badly in one of many ways."""
    match how:
        case "exit":
            os._exit(7)
        case "leave":
            sys.exit(5)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "really segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            while True:
                time.sleep(1)
        case "media":
            raise MediaError(f"file {number} is no use")
        case "unexpected":
            raise ZeroDivisionError("of all things")
        case "memory":
            raise MemoryError
    return number * 10


def fail_at_first(how: str, note: str, times: int) -> int:
    """Be killed or ended, or find the source unreadable, as often as that. Each time is noted in a file.

    Gives the process.
    """
    with Path(note).open("a") as file:
        file.write(f"{os.getpid()}\n")
    if len(Path(note).read_text().split()) <= times:
        if how == "unreadable":
            raise SourceError("Stale file handle")
        if how == "ended":  # As while the process starts, before it ignores this.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def be_killed(*_: object) -> None:
    """Be killed, whatever the arguments are."""
    os.kill(os.getpid(), signal.SIGKILL)


def note_and_hang(path: str) -> None:
    """Write down which process this is, and never come back."""
    Path(path).write_text(str(os.getpid()))
    while True:
        time.sleep(1)


def large(size: int) -> bytes:
    """A result larger than a pipe's buffer."""
    return bytes(size)


def unsendable() -> object:
    """A result that cannot be sent to another process."""
    return lambda: None


def use(what: str, amount: int) -> int:
    """Use up memory (MB), processor time (s), open files, bytes of a file (MB), or nothing. Gives the process's id."""
    match what:
        case "memory":
            bytearray(amount << 20)
        case "kept memory":
            _kept.append(bytearray(amount << 20))
        case "processor":
            while sum(os.times()[:2]) < amount:
                pass
        case "files":
            opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(amount)]
            for number in opened:
                os.close(number)
        case "disk":
            with tempfile.TemporaryFile() as file:
                file.write(bytes(amount << 20))
    return os.getpid()


_kept: list[bytearray] = []


def spin(seconds: float) -> int:
    """Use processor time; gives the process's id."""
    end = sum(os.times()[:2]) + seconds
    while sum(os.times()[:2]) < end:
        pass
    return os.getpid()
