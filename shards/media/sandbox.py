"""Media work in child processes with limits: a crash, a hang or too much memory affects one file only.

A child (shards/media/child.py) handles many files. One that died, ran out of memory, or kept too much memory after
earlier files is replaced. Possible errors of the machine (a kill from outside, a source file that cannot be read) are
tried once more.

A child that ends before it has taken its first file says nothing about that file: another child is started for it, and
if that does not help, the whole map ends.
"""

import contextlib
import math
import multiprocessing
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from shards.errors import Killed, MachineError, MediaError, SourceError, XdcError
from shards.media.child import BROKEN, DONE, KILLED, OVER_LIMIT, STARTED, UNREADABLE, Limits, cause_of_death, serve

# Not fork: the caller may have threads and libraries that do not survive it.
_context = multiprocessing.get_context("spawn")

Fetch = Callable[..., AbstractContextManager[tuple[Any, ...]] | None]

STARTS = 3  # How often a child is started for a file before the map ends.
START_S = 600.0  # Seconds that a start may take: on a busy machine it is slow, and no file's limit pays for it.


@dataclass
class _Child:
    process: BaseProcess
    pipe: Connection
    started: bool = False
    job: int | None = None
    arguments: tuple[Any, ...] = ()
    deadline: float = 0.0
    fetched: AbstractContextManager[tuple[Any, ...]] | None = None
    fetching: Future[tuple[Any, ...]] | None = None

    def give(self, arguments: tuple[Any, ...], seconds: float) -> None:
        """Send a job, which has so many seconds."""
        self.deadline = time.monotonic() + (seconds if self.started else START_S)
        with contextlib.suppress(ConnectionError):  # It just died, so there is no answer either.
            self.pipe.send(arguments)

    def let_go(self) -> None:
        """Remove what was fetched for the job. Waits for what is being fetched."""
        begun = self.fetching is not None and not self.fetching.cancel()
        if begun and self.fetched is not None and self.fetching is not None and self.fetching.exception() is None:
            self.fetched.__exit__(None, None, None)
        self.fetched = self.fetching = None


def _start(work: Callable[..., Any], limits: Limits) -> _Child:
    ours, theirs = _context.Pipe()
    process = _context.Process(target=serve, args=(work, theirs, limits), daemon=True)
    process.start()
    theirs.close()
    return _Child(process, ours)


def _end(child: _Child) -> None:
    child.pipe.close()
    child.process.kill()
    child.process.join()
    child.let_go()


def _not_started(reason: str) -> MachineError:
    return MachineError(
        f"a decoding process did not get to its first file, {STARTS} times: {reason}. No file is to blame. What it "
        "printed says more. Was xdc changed or installed while it ran? Does a script call xdc outside of "
        '`if __name__ == "__main__":`? Is there too little memory? What is finished is kept: mend it and run the same '
        "command again."
    )


def _error(outcome: Any, reason: str) -> XdcError:
    if outcome == KILLED:
        return Killed(reason)
    return SourceError(reason) if outcome == UNREADABLE else MediaError(reason, outcome)


def ordered_map(
    work: Callable[..., Any],
    jobs: Iterable[tuple[Any, ...]],
    workers: int,
    limits: Limits,
    fetch: Fetch | None = None,
) -> Generator[Any, None, None]:
    """Call `work(*job)` for each job in `workers` child processes; yield the results in the order of the jobs.

    A result is what `work` returned, or a MediaError: the one that it raised, or one for a process that died or
    exceeded its limits (the process is then replaced). A job whose process was killed from outside, or that raised a
    SourceError, is repeated once by another process; the second time the result is Killed (a MediaError), or that
    SourceError. The seconds of a job do not include the start of its process. At most 8 jobs per worker are in progress
    or wait to be yielded, so memory does not grow with the number of jobs. `work` must be importable by name.

    fetch: called with the arguments of a job; returns None, or a context manager that yields other arguments, which is
    entered in a thread before the job begins, and left when it has ended: for files that are there only meanwhile. No
    process has more than one. A SourceError that it raises is the result of the job.

    Raises:
        MachineError: processes end, or hang, before they take their first job; or a module cannot be imported.
        Exception: any other one of `fetch`.
    """
    threads = ThreadPoolExecutor(workers, thread_name_prefix="fetch") if fetch is not None else None
    woken, wake = _context.Pipe(duplex=False)
    waking = threading.Lock()

    def fetched(_: object) -> None:
        with waking, contextlib.suppress(OSError):  # The map has ended.
            wake.send_bytes(b".")

    source = enumerate(jobs)
    waiting: deque[tuple[int, tuple[Any, ...]]] = deque()
    finished: dict[int, Any] = {}
    tried: set[int] = set()
    starts: Counter[int] = Counter()  # By job: the processes that did not get to it.
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
                idle.fetched = fetch(*idle.arguments) if fetch is not None else None
                if idle.fetched is not None and threads is not None:
                    idle.deadline = math.inf
                    idle.fetching = threads.submit(idle.fetched.__enter__)
                    idle.fetching.add_done_callback(fetched)
                else:
                    idle.give(idle.arguments, limits.seconds)
                busy.append(idle)
            # Wait for an answer, the death of a child (its pipe closes), or the first deadline.
            first = min(child.deadline for child in busy)
            patience = None if first == math.inf else max(0.0, first - time.monotonic())
            ready = wait([woken, *(child.pipe for child in busy)], timeout=patience)
            if woken in ready:
                woken.recv_bytes()
            for child in busy:
                assert child.job is not None
                if child.deadline == math.inf and child.fetching is not None:
                    if child.fetching.done():
                        try:
                            child.give(child.fetching.result(), limits.seconds)
                        except SourceError as error:
                            finished[child.job], child.job = error, None
                            child.let_go()
                    continue
                if child.pipe in ready:
                    try:
                        answer = child.pipe.recv()
                        if answer == STARTED:
                            child.started, child.deadline = True, time.monotonic() + limits.seconds
                            continue
                        outcome, value, good = answer
                    except (EOFError, OSError):  # Closed, reset, or ended in the middle of an answer.
                        child.process.join()
                        outcome, value = cause_of_death(child.process, limits)
                        good = False
                elif time.monotonic() >= child.deadline:
                    value = f"took longer than {limits.seconds:g} s (corpus.clip_timeout_s)"
                    if not child.started:
                        value = f"it took longer than {START_S:g} s to start"
                    outcome, good = OVER_LIMIT, False
                else:
                    continue
                # Possible errors of the machine are tried once more; any other outcome is final.
                if outcome == BROKEN:
                    raise MachineError(
                        f"a part of xdc or of a library cannot be imported ({value}). No file is to blame. Was it "
                        "changed or installed while xdc ran? What is finished is kept: run the same command again."
                    )
                if not child.started:
                    starts[child.job] += 1
                    if starts[child.job] == STARTS:
                        raise _not_started(value)
                    waiting.appendleft((child.job, child.arguments))
                elif outcome in (KILLED, UNREADABLE) and child.job not in tried:
                    tried.add(child.job)
                    waiting.appendleft((child.job, child.arguments))
                else:
                    tried.discard(child.job)
                    finished[child.job] = value if outcome == DONE else _error(outcome, value)
                child.job = None
                child.let_go()
                if not good:
                    children.remove(child)
                    _end(child)
    finally:
        for child in children:
            _end(child)
        if threads is not None:
            threads.shutdown()
        woken.close()
        with waking:
            wake.close()
