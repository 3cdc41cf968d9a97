"""Media work in child processes with limits: a crash, a hang or too much memory affects one file only.

A child handles many files. It has limits on its memory and its open files from the start, and on processor time for
each file. A child that died, ran out of memory, or kept too much memory after earlier files is replaced.

Possible errors of the machine (a kill from outside, a source file that cannot be read) are tried once more.
"""

import contextlib
import math
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from shards.errors import Killed, MediaError, SourceError, XdcError
from shards.reject import Kind

# Not fork: the caller may have threads and libraries that do not survive it.
_context = multiprocessing.get_context("spawn")

MB = 1 << 20
HANDLES = 32  # Files that a child may open in addition to those it begins with.
WRITTEN = 16 * MB  # Bytes per file. A child writes no files, but its output may go to one.
DONE = "done"
KILLED: Kind = "killed"
UNREADABLE: Kind = "unreadable"
OVER_LIMIT: Kind = "over_limit"
CRASHED: Kind = "crashed"
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


@dataclass
class _Child:
    process: BaseProcess
    pipe: Connection
    job: int | None = None
    arguments: tuple[Any, ...] = ()
    deadline: float = 0.0


def _serve(work: Callable[..., Any], pipe: Connection, limits: Limits) -> None:
    """Run the child: receive arguments; send the outcome, the result or reason, and whether it can continue.

    The outcome is DONE, or the kind of the reject.
    """
    for number in TO_THE_GROUP:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begun_with = _limit(limits)
    too_much = "needed more memory than there is"
    if limits.memory_mb < math.inf:
        too_much = f"needed more than {limits.memory_mb:g} MB of memory (corpus.clip_memory_mb)"
    with contextlib.suppress(EOFError, ConnectionError):  # The parent is gone: end.
        while True:
            arguments = pipe.recv()
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
            except Exception as error:  # noqa: BLE001 - hostile files may raise any error; it rejects that file only
                answer = (
                    CRASHED,
                    f"a defect of xdc, please report it with the file ({type(error).__name__}: {error})",
                )
            try:
                pipe.send((*answer, sound and not _worn(begun_with, limits)))
            except MemoryError:
                pipe.send((OVER_LIMIT, too_much, False))


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


def _start(work: Callable[..., Any], limits: Limits) -> _Child:
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_serve, args=(work, theirs, limits), daemon=True)
    process.start()
    theirs.close()
    return _Child(process, ours)


def _end(child: _Child) -> None:
    child.pipe.close()
    child.process.kill()
    child.process.join()


def _cause_of_death(process: BaseProcess, limits: Limits) -> tuple[Kind, str]:
    """Return the kind of the reject, and the cause in words."""
    code = process.exitcode or 0
    if -code == signal.SIGKILL:
        return KILLED, "the decoding process was killed from outside (signal 9), most often for lack of memory"
    if -code in TO_THE_GROUP:  # While it started, before it ignored them.
        return KILLED, f"the decoding process was ended from outside (signal {-code}, {signal.Signals(-code).name})"
    if code >= 0:
        return CRASHED, f"the decoding process ended by itself (exit {code})"
    if -code == signal.SIGXCPU:
        return OVER_LIMIT, f"needed more than {limits.cpu_seconds:g} s of processor time (corpus.clip_cpu_s)"
    try:
        name = f", {signal.Signals(-code).name}"
    except ValueError:
        name = ""
    return CRASHED, f"the decoder crashed (signal {-code}{name})"


def _error(outcome: Any, reason: str) -> XdcError:
    if outcome == KILLED:
        return Killed(reason)
    return SourceError(reason) if outcome == UNREADABLE else MediaError(reason, outcome)


def ordered_map(
    work: Callable[..., Any], jobs: Iterable[tuple[Any, ...]], workers: int, limits: Limits
) -> Generator[Any, None, None]:
    """Call `work(*job)` for each job in `workers` child processes; yield the results in the order of the jobs.

    A result is what `work` returned, or a MediaError: the one that it raised, or one for a process that died or
    exceeded its limits (the process is then replaced). A job whose process was killed from outside, or that raised a
    SourceError, is repeated once by another process; the second time the result is Killed (a MediaError), or that
    SourceError. At most 8 jobs per worker are in progress or wait to be yielded, so memory does not grow with the
    number of jobs. `work` must be importable by name.
    """
    source = enumerate(jobs)
    waiting: deque[tuple[int, tuple[Any, ...]]] = deque()
    finished: dict[int, Any] = {}
    tried: set[int] = set()
    exhausted, following = False, 0  # `following`: number of the next job to yield.
    children: list[_Child] = []
    try:
        while True:
            # Results in the order of the jobs, as far as they are finished.
            while following in finished:
                yield finished.pop(following)
                following += 1
            busy = [child for child in children if child.job is not None]
            # Take new jobs, but not more than may be in memory.
            while not exhausted and len(waiting) + len(busy) + len(finished) < 8 * workers:
                job = next(source, None)
                if job is None:
                    exhausted = True
                else:
                    waiting.append(job)
            if exhausted and not waiting and not busy and not finished:
                return
            # Give waiting jobs to idle children, or to new ones.
            while waiting and len(busy) < workers:
                idle = next((child for child in children if child.job is None), None)
                if idle is not None and not idle.process.is_alive():  # Killed from outside.
                    children.remove(idle)
                    _end(idle)
                    idle = None
                if idle is None:
                    idle = _start(work, limits)
                    children.append(idle)
                idle.job, idle.arguments = waiting.popleft()
                idle.deadline = time.monotonic() + limits.seconds
                with contextlib.suppress(ConnectionError):  # It just died, so there is no answer either.
                    idle.pipe.send(idle.arguments)
                busy.append(idle)
            # Wait for an answer, the death of a child (its pipe closes), or the first deadline.
            patience = max(0.0, min(child.deadline for child in busy) - time.monotonic())
            ready = wait([child.pipe for child in busy], timeout=patience)
            for child in busy:
                assert child.job is not None
                if child.pipe in ready:
                    try:
                        outcome, value, good = child.pipe.recv()
                    except (EOFError, OSError):  # Closed, reset, or ended in the middle of an answer.
                        child.process.join()
                        outcome, value = _cause_of_death(child.process, limits)
                        good = False
                elif time.monotonic() >= child.deadline:
                    outcome, value, good = (
                        OVER_LIMIT,
                        f"took longer than {limits.seconds:g} s (corpus.clip_timeout_s)",
                        False,
                    )
                else:
                    continue
                # Possible errors of the machine are tried once more; any other outcome is final.
                if outcome in (KILLED, UNREADABLE) and child.job not in tried:
                    tried.add(child.job)
                    waiting.appendleft((child.job, child.arguments))
                else:
                    tried.discard(child.job)
                    finished[child.job] = value if outcome == DONE else _error(outcome, value)
                child.job = None
                if not good:
                    children.remove(child)
                    _end(child)
    finally:
        for child in children:
            _end(child)
