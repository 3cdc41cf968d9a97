"""The ranks of a training's processes, and what they exchange besides gradients."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import distributed, nn

from xdc_core.ranks.job import TIMEOUT_S


@dataclass(frozen=True)
class ProcessRank:
    """The number of this process, from 0, the number of processes, and how many of them are on this machine."""

    rank: int
    world_size: int
    on_machine: int = 1


def rank_from_environment() -> ProcessRank:
    """Return the rank that torchrun gave this process; (0, 1) without torchrun."""
    names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
    return ProcessRank(*(int(os.environ.get(name, default)) for name, default in names.items()))


def join_ranks(process: ProcessRank, device: torch.device, timeout: float | None) -> None:
    """Join the process group. Tensors on the CPU are exchanged through gloo, those on a GPU through NCCL.

    timeout: seconds after which every exchange raises RuntimeError, or ends the process, if a rank does not take part;
        None: 600 on several machines, on one torch's limits (30 minutes with gloo, 10 with NCCL).
    """
    if process.world_size == 1:
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if timeout is None and process.world_size > process.on_machine:
        timeout = TIMEOUT_S
    distributed.init_process_group(backend, timeout=None if timeout is None else timedelta(seconds=timeout))


def leave_ranks(process: ProcessRank) -> None:
    """Wait until every process calls this.

    The process group is not destroyed: in torch 2.13 that may hang, because its destructor holds Python's lock while
    it waits for a thread of gloo that needs the lock. The processes end without destructors instead.
    """
    any_rank(False, process)


def any_rank(flag: bool, process: ProcessRank) -> bool:
    """Return whether `flag` is set in any process; all get the same result. Every process must call this."""
    if process.world_size == 1:
        return flag
    value = torch.tensor(float(flag))
    distributed.all_reduce(value, distributed.ReduceOp.MAX)
    return bool(value)


def mean_over_ranks(values: dict[str, float], process: ProcessRank) -> dict[str, float]:
    """Return the mean of each value over the processes, equally weighted. Every process must call this."""
    if process.world_size == 1:
        return values
    means = torch.tensor(list(values.values()), dtype=torch.float64)
    distributed.all_reduce(means)
    return dict(zip(values, (means / process.world_size).tolist(), strict=True))


def share_buffers(model: nn.Module, process: ProcessRank) -> None:
    """Copy the buffers of rank 0 to every process, because the batch norms of each have seen other clips.

    Every process must call this.
    """
    if process.world_size > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def concatenate_over_ranks(arrays: Sequence[np.ndarray], process: ProcessRank) -> list[np.ndarray]:
    """Concatenate each array with those of the other processes along its first axis, in the order of the ranks.

    Every process must call this, with arrays of the same dtypes and trailing shapes.
    """
    if process.world_size == 1:
        return list(arrays)
    parts: list[Any] = [None] * process.world_size
    distributed.all_gather_object(parts, list(arrays))
    return [np.concatenate(column) for column in zip(*parts, strict=True)]
