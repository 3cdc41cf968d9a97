"""Whoever dies between a flow and torchrun's ranks, nobody below survives, and the bytes in the end are the same."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from flows.runners.forked import TORCH, Children
from shards.errors import StageError
from tests.flows.interrupted import assert_as_if_nothing_had_happened
from tests.processes import alive, children_of, wait_for
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.matrix,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the ranks through /proc"),
]

TRAIN = Node("train", "audio", 0)
# Generations below the fork server: the stage's process, torchrun's agent. Each is the victim of one call.
VICTIMS = {
    "the fork server": (0, "the process that starts the stages died"),
    "the stage": (1, "ended by signal 9"),
    "torchrun's agent": (2, "torchrun ended with exit code -9"),
}


@pytest.fixture
def children() -> Iterator[Children]:
    """Fork servers of this test's own."""
    own = Children()
    yield own
    own.close()


def generations(process: int) -> list[list[int]]:
    """The process, its children, their children, and so on."""
    found = [[process]]
    while younger := [child for parent in found[-1] if alive(parent) for child in children_of(parent)]:
        found.append(younger)
    return found


def all_gone(processes: set[int]) -> bool:
    return not any(alive(process) for process in processes)


def killed_while_training(run: Run, children: Children, generation: int, said: str) -> list[list[int]]:
    """Train until the first step, and kill; returns all generations, as they were before."""
    family: list[list[int]] = []

    def kill_it(done: int, total: int, note: str = "") -> None:
        if not family:
            family.extend(generations(children.server(TORCH).process_id))
            os.kill(family[generation][0], signal.SIGKILL)

    with pytest.raises(StageError, match=said):
        children.run_stage(run, TRAIN, progress=kill_it)
    return family


def test_no_rank_outlives_a_killed_ancestor_and_the_same_again_ends_with_the_same_bytes(
    half_done: Run, whole: Run, children: Children
) -> None:
    for victim, (generation, said) in VICTIMS.items():
        family = killed_while_training(half_done, children, generation, said)
        assert [len(relatives) for relatives in family[:4]] == [1, 1, 1, 2], victim
        below = {process for relatives in family[generation:] for process in relatives}
        wait_for(f"all below {victim} to end", partial(all_gone, below), 30)
    for node in all_nodes(half_done.config):
        children.run_stage(half_done, node)
    assert_as_if_nothing_had_happened(half_done, whole)
