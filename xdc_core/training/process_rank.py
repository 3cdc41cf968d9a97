"""Which of how many training processes this is, and what they tell each other beside gradients."""

import os
from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True)
class Place:
    """Which of how many processes this is."""

    rank: int
    ranks: int


def place_from_environment() -> Place:
    """Of a process that torchrun started; (0, 1) without torchrun."""
    return Place(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def join_ranks(place: Place, device: torch.device) -> None:
    """Meet the other processes. Tensors on the CPU go through gloo on every machine, those on a GPU through NCCL."""
    if place.ranks == 1:
        return
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def leave_ranks(place: Place) -> None:
    """Wait until every process is here.

    The group is not taken down: in torch 2.13 that may hang (the group's destructor holds Python's lock while it waits
    for a thread of gloo that wants the lock). The processes end without destructors instead.
    """
    any_rank(False, place)


def any_rank(flag: bool, place: Place) -> bool:
    """Whether it is so in any process; all get the same answer. Each of them must ask."""
    if place.ranks == 1:
        return flag
    told = torch.tensor(float(flag))
    distributed.all_reduce(told, distributed.ReduceOp.MAX)
    return bool(told)


def mean_over_ranks(values: dict[str, float], place: Place) -> dict[str, float]:
    """The mean of each value over the processes, whose batches are equally large. Each of them must ask."""
    if place.ranks == 1:
        return values
    means = torch.tensor(list(values.values()), dtype=torch.float64)
    distributed.all_reduce(means)
    return dict(zip(values, (means / place.ranks).tolist(), strict=True))
