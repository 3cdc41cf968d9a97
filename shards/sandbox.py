"""Media work in child processes that may die: a crash or a hang costs one file, and the pool goes on."""

import contextlib
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from shards.errors import MediaError

# Not fork: the caller may hold threads and libraries that do not survive it.
_context = multiprocessing.get_context("spawn")


@dataclass
class _Child:
    process: BaseProcess
    pipe: Connection
    job: int | None = None
    deadline: float = 0.0


def _serve(work: Callable[..., Any], pipe: Connection) -> None:
    """The child: take arguments, answer with ("done", result) or ("failed", reason)."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):  # The parent is gone: so are we.
        while True:
            arguments = pipe.recv()
            try:
                answer = ("done", work(*arguments))
            except MediaError as error:
                answer = ("failed", str(error))
            except Exception as error:  # noqa: BLE001 - hostile files find every path; each costs itself only
                answer = ("failed", f"{type(error).__name__}: {error}")
            pipe.send(answer)


def _end_with_parent() -> None:
    """Even where a decoder hangs, a child does not outlive a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _start(work: Callable[..., Any]) -> _Child:
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_serve, args=(work, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Child(process, ours)


def _end(child: _Child) -> None:
    child.pipe.close()
    child.process.kill()
    child.process.join()


def ordered_map(
    work: Callable[..., Any], jobs: Iterable[tuple[Any, ...]], workers: int, timeout_s: float
) -> Generator[Any, None, None]:
    """Do `work(*job)` for each job in `workers` child processes; yield in the order of the jobs.

    Yields what `work` returned, or a MediaError: what it raised, or that its process died or took longer than
    `timeout_s` seconds (the process is then replaced). At most 8 jobs a worker are in flight or waiting to be
    taken, so memory does not grow with the number of jobs. `work` must be importable by name.
    """
    source = enumerate(jobs)
    waiting: deque[tuple[int, tuple[Any, ...]]] = deque()
    finished: dict[int, Any] = {}
    exhausted, following = False, 0
    children: list[_Child] = []
    try:
        while True:
            while following in finished:
                yield finished.pop(following)
                following += 1
            busy = [child for child in children if child.job is not None]
            while not exhausted and len(waiting) + len(busy) + len(finished) < 8 * workers:
                job = next(source, None)
                if job is None:
                    exhausted = True
                else:
                    waiting.append(job)
            if exhausted and not waiting and not busy and not finished:
                return
            while waiting and len(busy) < workers:
                idle = next((child for child in children if child.job is None), None)
                if idle is not None and not idle.process.is_alive():  # Ended from outside, as for lack of memory.
                    children.remove(idle)
                    _end(idle)
                    idle = None
                if idle is None:
                    idle = _start(work)
                    children.append(idle)
                idle.job, arguments = waiting.popleft()
                idle.deadline = time.monotonic() + timeout_s
                with contextlib.suppress(ConnectionError):  # It just died: then there is no answer either.
                    idle.pipe.send(arguments)
                busy.append(idle)
            patience = max(0.0, min(child.deadline for child in busy) - time.monotonic())
            ready = wait([child.pipe for child in busy], timeout=patience)
            for child in busy:
                assert child.job is not None
                if child.pipe in ready:
                    try:
                        verdict, value = child.pipe.recv()
                    except (EOFError, OSError):  # Closed, reset, or cut off in the middle of an answer.
                        child.process.join()
                        verdict, value = "failed", f"the decoder crashed (exit {child.process.exitcode})"
                        children.remove(child)
                        _end(child)
                elif time.monotonic() >= child.deadline:
                    verdict, value = "failed", f"the decoder was still busy after {timeout_s:g} s"
                    children.remove(child)
                    _end(child)
                else:
                    continue
                finished[child.job] = value if verdict == "done" else MediaError(value)
                child.job = None
    finally:
        for child in children:
            _end(child)
