"""The one loader of clips: their views, made by this process or by worker processes beside it."""

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

# What the workers' fork server imports once: all that a pickled `ClipViews` needs.
PRELOADED = ["xdc_core.data.loader"]


def load_views(
    views: ClipViews, batches: Iterable[Iterable[ClipItem]], workers: int, device: torch.device
) -> Iterator[ClipBatch]:
    """Make the views of each batch of items, in order: the one loader of clips.

    With `workers`, that many processes make them and read ahead; `batches` stays in this process. Without, the items of
    a batch are taken one by one, each when the view before it is made. For a GPU the tensors lie in pinned memory, from
    which they are copied while it computes.

    Raises:
        StageError: a stored clip cannot be read; from a worker, too.
    """
    method = start_method(device) if workers else None
    loader: DataLoader[Any] = DataLoader(
        views,
        batch_sampler=batches if not workers else map(list, batches),  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        multiprocessing_context=method,
        worker_init_fn=end_with_stage if workers else None,
        generator=torch.Generator(),  # Its own: a draw from the common one would change the dropout of who trains.
    )
    if method == "forkserver":
        multiprocessing.get_context(method).set_forkserver_preload(PRELOADED)
    try:
        yield from loader
    except StageError as error:  # From a worker it comes with a traceback in its text.
        raise StageError(str(error).rstrip().rsplit("StageError: ", 1)[-1]) from None
    finally:
        views.close()


def batches_by_shard(
    rows: Mapping[str, Sequence[int]], batch: int, item: Callable[[int], ClipItem] = ClipItem
) -> Iterator[list[ClipItem]]:
    """Yield the items of the rows of every shard, `batch` clips at a time, so that no batch has clips of two shards.

    item: makes the item of a row; as it is, that of the centre view.
    """
    for numbers in rows.values():
        for first in range(0, len(numbers), batch):
            yield [item(number) for number in numbers[first : first + batch]]


def start_method(device: torch.device) -> str | None:
    """How workers are started. None: as Python does by itself.

    A process that uses CUDA must not be forked: its threads and locks are copied in whatever state they are. There a
    fork server, which has imported what is needed and never touches CUDA, starts the workers. Without CUDA a fork is
    right and costs nothing.
    """
    if sys.platform != "linux":
        return None
    return "forkserver" if device.type == "cuda" else "fork"


def end_with_stage(_: int) -> None:
    """Have this worker end when the process that wants its views is gone, however that one ended."""
    stage = multiprocessing.parent_process()
    assert stage is not None
    assert stage.pid is not None
    if os.getppid() == stage.pid:
        die_with_parent(signal.SIGKILL, stage.pid)
        return

    # The fork server is our parent, and lives as long as we do: only the stage itself is worth watching.
    def watch() -> None:
        stage.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
