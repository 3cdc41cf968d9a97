"""Evaluations that `xdc eval` is making: what they read stays meanwhile."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shards.store.lock import exclusive
from xdc_core.graph.run_stage import all_fresh
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


def place_of(run: Run, node: Node) -> Path:
    """Return the path that is locked as long as `xdc eval` makes an evaluation and what it reads.

    Its folder exists if there are features of the round.
    """
    assert node.round is not None
    return run.round_directory(node.round) / f"evaluations.{node.modality}"


@contextmanager
def kept_for(run: Run, evaluations: Iterable[Node], force: bool) -> Iterator[None]:
    """Keep what these evaluations read from being cleaned, also before they begin. force: even if they are finished.

    Raises:
        Busy: another process is making or cleaning it.
    """
    with ExitStack() as locks:
        for node in evaluations:
            if force or not all_fresh(run, [node]):  # Else nothing is written, maybe to a disk that can only be read.
                locks.enter_context(exclusive(place_of(run, node)))
        yield
