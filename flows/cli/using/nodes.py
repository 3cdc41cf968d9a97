"""Nodes of a run that a command needs."""

from collections.abc import Sequence
from contextlib import ExitStack

from flows.executors.preflight import check_run_for
from flows.runners.forked import Children
from flows.runners.scheduler import Job, Scheduler
from flows.terminal import show_progress
from shards.store.build import Record
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


def make_nodes(run: Run, nodes: Sequence[Node]) -> dict[Node, Record]:
    """Reuse or make nodes of a run, each after its inputs, in child processes. Return their records.

    Modalities are processed in parallel as far as `runs_on.parallel` allows, as in a round.

    Raises:
        StageError, ConfigError, Busy: what the first failed node raised. What is finished is kept.
    """
    check_run_for(run, nodes)
    with ExitStack() as stack:
        children, listener = stack.enter_context(Children()), stack.enter_context(show_progress())
        scheduler = Scheduler(children, lambda run: listener)
        scheduler.run(
            [Job(run, node) for node in nodes], len(run.config.modalities) if run.config.runs_on.parallel else 1
        )
    for error in scheduler.failed.values():
        raise error
    return {node: scheduler.done[Job(run, node).key] for node in nodes}
