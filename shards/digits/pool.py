"""Draw clips in chunks with a pool of processes. A clip does not depend on the process that draws it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from shards.digits.render import Material, write_clip
from shards.errors import StageError

CHUNK = 50

Job = tuple[str, range]
Row = dict[str, str]

_material: Material | None = None  # A worker's copy, sent to it once instead of with every chunk.


def _start_worker(material: Material) -> None:
    global _material
    _material = material
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent handles Ctrl-C and ends the pool.
    parent = multiprocessing.parent_process()
    if parent is not None:

        def end_with_parent() -> None:
            parent.join()
            os._exit(1)

        # Otherwise a pool's workers wait forever for a killed parent.
        threading.Thread(target=end_with_parent, daemon=True).start()


def _draw_chunk(job: Job, folder: Path) -> list[Row]:
    if _material is None:
        raise RuntimeError("a worker was given clips before its material")
    split, indices = job
    return [write_clip(_material, split, index, folder) for index in indices]


def _jobs(split: str, clips: int) -> list[Job]:
    return [(split, range(start, min(start + CHUNK, clips))) for start in range(0, clips, CHUNK)]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def draw_clips(material: Material, folder: Path, progress: Callable[[int, int], None] | None = None) -> list[Row]:
    """Write all clips of `material.settings` below `folder` and return their rows: training first, by index.

    Raises:
        StageError: a worker ended early.
    """
    settings = material.settings
    jobs = [job for split, clips in settings.clips_by_split.items() for job in _jobs(split, clips)]
    total = sum(settings.clips_by_split.values())
    workers = min(settings.workers or _cores(), len(jobs))
    done = 0
    rows: list[list[Row]] = [[] for _ in jobs]

    def arrived(number: int, chunk: list[Row]) -> None:
        nonlocal done
        rows[number] = chunk
        done += len(chunk)
        if progress is not None:
            progress(done, total)

    if workers == 1:
        for number, (split, indices) in enumerate(jobs):
            arrived(number, [write_clip(material, split, index, folder) for index in indices])
        return [row for chunk in rows for row in chunk]
    # Spawned: a fork of a process with threads (BLAS, a progress bar) can hang.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(material,)
    )
    try:
        futures = {pool.submit(_draw_chunk, job, folder): number for number, job in enumerate(jobs)}
        for future in as_completed(futures):
            arrived(futures[future], future.result())
    except BrokenProcessPool as error:
        raise StageError(
            f"a process that draws clips ended before its time, after {done} of {total} clips. It was killed "
            "(out of memory?), or the calling script lacks `if __name__ == '__main__':`. "
            "Run this again, with fewer workers if memory is short."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return [row for chunk in rows for row in chunk]
