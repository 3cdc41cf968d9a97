"""Views of clips, made by this process or by worker processes beside it."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from shards.errors import StageError
from xdc_core.compute.parent_death import die_with_parent
from xdc_core.data.clips import ClipBatch, ClipViews, collate

# What the workers' fork server imports once: all that a pickled `ClipViews` needs.
PRELOADED = ["xdc_core.data.loader"]


def load_views(
    views: ClipViews,
    batches: Iterable[list[tuple[int, int | None]]],
    workers: int,
    device: torch.device,
    join: Callable[[list[torch.Tensor]], torch.Tensor] = torch.stack,
) -> Iterator[ClipBatch]:
    """The views of each batch of items of `views`, in order, joined to one tensor.

    With `workers`, so many processes make them and read ahead; `batches` stays in this process. For a GPU the tensors
    lie in pinned memory, from which they are copied while it computes.

    Raises:
        StageError: what a view raised, in a worker too.
    """
    method = start_method(device) if workers else None
    loader: DataLoader[Any] = DataLoader(
        views,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=partial(collate, join=join),
        pin_memory=device.type == "cuda",
        multiprocessing_context=method,
        worker_init_fn=end_with_stage if workers else None,
    )
    if method == "forkserver":
        multiprocessing.get_context(method).set_forkserver_preload(PRELOADED)
    try:
        yield from loader
    except StageError as error:  # From a worker it comes with a traceback in its text.
        raise StageError(str(error).rstrip().rsplit("StageError: ", 1)[-1]) from None


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
