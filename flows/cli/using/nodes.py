"""Nodes of a run that a command needs."""

from collections.abc import Sequence
from contextlib import ExitStack

from flows.executors.preflight import check_run_for
from flows.runners.forked import Children
from flows.runners.scheduler import Job, Scheduler
from flows.terminal import show_progress
from shards.store.build import Record
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import finished, reuse
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


def make_nodes(run: Run, nodes: Sequence[Node], before: Sequence[Node] = (), quiet: bool = False) -> dict[Node, Record]:
    """Reuse or make nodes of a run whose files the caller reads, each after its inputs, in child processes.

    Returns the records of all. Files that `xdc clean` has removed are made again. before: nodes that `nodes` read;
    their files need only be there for a node that is not finished. quiet: without a line per node. Modalities are
    processed in parallel as far as `runs_on.parallel` allows, as in a round.

    Raises:
        StageError, ConfigError, Busy: what the first failed node raised. What is finished is kept.
    """
    every, known = list(dict.fromkeys([*before, *nodes])), Fingerprints(run, compare=False)
    check_run_for(run, every)
    # Nothing misses the files of a node that is cleaned and finished, but the caller.
    cleaned = [node for node in nodes if reuse(run, node, known) is None and finished(run, node, known) is not None]
    with ExitStack() as stack:
        children, listener = stack.enter_context(Children()), stack.enter_context(show_progress(not quiet))
        scheduler = Scheduler(children, lambda run: listener)
        scheduler.run(
            [Job(run, node, node in cleaned) for node in every],
            len(run.config.modalities) if run.config.runs_on.parallel else 1,
        )
    for error in scheduler.failed.values():
        raise error
    return {node: scheduler.done[Job(run, node).key] for node in every}
