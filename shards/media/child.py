"""The child of the sandbox: it works on many files with limits on memory, open files and processor time."""

import contextlib
import math
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from shards.errors import MediaError, SourceError
from shards.reject import Kind

MB = 1 << 20
HANDLES = 32  # Files that a child may open in addition to those it begins with.
WRITTEN = 16 * MB  # Bytes per file. A child writes no files, but its output may go to one.
STARTED = "started"  # What a child sends when it has taken its first file.
DONE = "done"
BROKEN = "broken"
KILLED: Kind = "killed"
UNREADABLE: Kind = "unreadable"
OVER_LIMIT: Kind = "over_limit"
CRASHED: Kind = "crashed"
ENDED = "the decoding process ended by itself"
# Sent to a whole group of processes by a terminal, a service manager or a batch system. What happens then is decided by
# the parent, which may finish its shard: its children go on, and end with it.
TO_THE_GROUP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Limits:
    """The limits of one job: seconds of wall time and of processor time, and megabytes above those of the libraries.

    A child that keeps more than half of its megabytes after a job is replaced.
    """

    seconds: float
    cpu_seconds: float = math.inf
    memory_mb: float = math.inf


def serve(work: Callable[..., Any], pipe: Connection, limits: Limits) -> None:
    """Run the child: receive arguments; send the outcome, the result or reason, and whether it can continue.

    The outcome is DONE, BROKEN if a module cannot be imported, or the kind of the reject. STARTED is sent once, before.
    """
    for number in TO_THE_GROUP:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begun_with = _limit(limits)
    too_much = "needed more memory than there is"
    if limits.memory_mb < math.inf:
        too_much = f"needed more than {limits.memory_mb:g} MB of memory (corpus.clip_memory_mb)"
    with contextlib.suppress(EOFError, ConnectionError):  # The parent is gone: end.
        arguments = pipe.recv()
        pipe.send(STARTED)
        while True:
            _allow_cpu(limits.cpu_seconds)
            sound = True
            try:
                answer: tuple[str, Any] = (DONE, work(*arguments))
            except MediaError as error:
                answer = (error.kind, str(error))
            except SourceError as error:
                answer, sound = (UNREADABLE, str(error)), False
            except MemoryError:
                answer, sound = (OVER_LIMIT, too_much), False
            except ImportError as error:
                answer, sound = (BROKEN, f"{type(error).__name__}: {error}"), False
            except Exception as error:  # noqa: BLE001 - hostile files may raise any error; it rejects that file only
                answer = (
                    CRASHED,
                    f"a defect of xdc, please report it with the file ({type(error).__name__}: {error})",
                )
            try:
                pipe.send((*answer, sound and not _worn(begun_with, limits)))
            except MemoryError:
                pipe.send((OVER_LIMIT, too_much, False))
            arguments = pipe.recv()


def _limit(limits: Limits) -> int:
    """Set the limits for the child's whole life. Return the address space of its libraries, in bytes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (WRITTEN, WRITTEN))
    handles = _handles() + HANDLES
    resource.setrlimit(resource.RLIMIT_NOFILE, (handles, handles))
    begun_with = _address_space()
    if begun_with and limits.memory_mb < math.inf:
        most = begun_with + int(limits.memory_mb * MB)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return begun_with


def _allow_cpu(seconds: float) -> None:
    """Limit the processor time of the next job. The kernel counts from the process's start, in whole seconds."""
    if seconds < math.inf:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(usage.ru_utime + usage.ru_stime + seconds), most))


def _address_space() -> int:
    """Return the address space of this process in bytes; 0 if it is not known (then memory is not limited)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _handles() -> int:
    """Return one more than the highest number of an open file."""
    try:
        return 1 + max(int(name) for name in os.listdir("/proc/self/fd"))
    except OSError:
        return 256


def _worn(begun_with: int, limits: Limits) -> bool:
    """Return whether memory kept after earlier files leaves too little for later ones."""
    return bool(begun_with) and _address_space() - begun_with > limits.memory_mb * MB / 2


def _end_with_parent() -> None:
    """End this child when its parent ends, even if a decoder hangs."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def cause_of_death(process: BaseProcess, limits: Limits) -> tuple[Kind, str]:
    """Return the kind of the reject, and the cause in words."""
    code = process.exitcode or 0
    if -code == signal.SIGKILL:
        return KILLED, "the decoding process was killed from outside (signal 9), most often for lack of memory"
    if -code in TO_THE_GROUP:  # While it started, before it ignored them.
        return KILLED, f"the decoding process was ended from outside (signal {-code}, {signal.Signals(-code).name})"
    if code >= 0:
        return CRASHED, f"{ENDED} (exit {code})"
    if -code == signal.SIGXCPU:
        return OVER_LIMIT, f"needed more than {limits.cpu_seconds:g} s of processor time (corpus.clip_cpu_s)"
    try:
        name = f", {signal.Signals(-code).name}"
    except ValueError:
        name = ""
    return CRASHED, f"the decoder crashed (signal {-code}{name})"
