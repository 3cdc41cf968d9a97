"""The loader of clips: views, made by this process or by worker processes."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from shards.errors import StageError
from xdc_core.compute.parent_death import die_with_parent
from xdc_core.data.clips import ClipBatch, ClipItem, ClipViews, collate

# Modules that the fork server of the workers imports once: all that a pickled `ClipViews` needs.
PRELOADED = ["xdc_core.data.loader"]


def load_views(
    views: ClipViews, batches: Iterable[Iterable[ClipItem]], workers: int, device: torch.device
) -> Iterator[ClipBatch]:
    """Yield the views of each batch of items, in order. Every stage loads clips with this function.

    workers: number of processes that decode and read ahead; `batches` is iterated in this process. With 0 workers this
    process decodes, and takes the items of a batch one by one, each after the view before it was made. For a GPU the
    tensors are in pinned memory, so that they can be copied while it computes.

    Raises:
        StageError: a stored clip cannot be read, in this process or in a worker.
    """
    method = start_method(device) if workers else None
    if method == "fork" and views.in_object_store:  # Its client does not survive a fork.
        method = "forkserver"
    loader: DataLoader[Any] = DataLoader(
        views,
        batch_sampler=batches if not workers else map(list, batches),  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        multiprocessing_context=method,
        worker_init_fn=end_with_stage if workers else None,
        generator=torch.Generator(),  # A separate generator: a draw from the global one would change dropout.
    )
    if method == "forkserver":
        multiprocessing.get_context(method).set_forkserver_preload(PRELOADED)
    try:
        yield from loader
    except StageError as error:  # The text of a worker's error includes a traceback, with the name of its class.
        kind = type(error)
        raise kind(str(error).rstrip().rsplit(f"{kind.__name__}: ", 1)[-1]) from None
    finally:
        views.close()


def batches_by_shard(
    rows: Mapping[str, Sequence[int]], batch: int, item: Callable[[int], ClipItem] = ClipItem
) -> Iterator[list[ClipItem]]:
    """Yield batches of `batch` items from the rows of each shard; no batch has clips of two shards.

    item: makes the item for a row; by default it requests the centre view.
    """
    for numbers in rows.values():
        for first in range(0, len(numbers), batch):
            yield [item(number) for number in numbers[first : first + batch]]


def start_method(device: torch.device) -> str | None:
    """Return the start method of workers; None is Python's default.

    A process that uses CUDA must not be forked, because its threads and locks would be copied in an arbitrary state. A
    fork server starts the workers instead: it imports the needed modules once and never initialises CUDA. Without CUDA
    a fork is safe and fast.
    """
    if sys.platform != "linux":
        return None
    return "forkserver" if device.type == "cuda" else "fork"


def end_with_stage(_: int) -> None:
    """End this worker when the process that uses its views has ended, for whatever reason."""
    stage = multiprocessing.parent_process()
    assert stage is not None
    assert stage.pid is not None
    if os.getppid() == stage.pid:
        die_with_parent(signal.SIGKILL, stage.pid)
        return

    # The parent of this worker is the fork server, which lives as long as it does: watch the stage's process instead.
    def watch() -> None:
        stage.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
