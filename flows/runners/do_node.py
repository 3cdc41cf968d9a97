"""Run a node, for every caller: flow tasks, `xdc stage`, evaluations and studies."""

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

from flows.executors.preflight import check_run
from flows.runners.events import Listener
from flows.runners.stage_runner import StageRunner
from shards.errors import Busy, XdcError
from shards.store.build import Record
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import finished
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

WAIT_S, LONGEST_WAIT_S = 1.0, 20.0  # Seconds between two attempts at a directory that another process is building.
# By run: held while a stage is in progress, if the configuration allows only one at a time.
_ONE_AT_A_TIME: dict[Path, threading.Lock] = {}


def do_node(
    run: Run,
    node: Node,
    runner: StageRunner,
    listeners: Sequence[Listener] = (),
    *,
    force: bool = False,
    wait: bool = False,
    corpus_read_as: str | None = None,
    readers: Sequence[Node] | None = None,
) -> Record:
    """Reuse a node's directory, or have `runner` run its stage. Return the record.

    Args:
        run: the run, with the configuration for the node, even if xdc.yaml has changed since.
        listeners: informed of progress, of waiting, and of the result.
        force: rebuild it even if it is fresh.
        wait: if another process is building it, wait until that one has finished (its result is reused) or died.
        corpus_read_as: the fingerprint that the corpus had as an input when the caller began, if it is known: see
            `Fingerprints`.
        readers: the nodes that read its files. A cleaned directory is made again only if one of them is not finished.
            None: it is made again in any case.

    With `runs_on.parallel: false` one stage of the run is in progress at a time; others wait here.

    Raises:
        StageError, ConfigError: the stage failed; its finished parts are kept.
        ConfigError: the executor of the run cannot be used. Nothing has been done.
        Busy: another process is building it, and `wait` is False.
    """
    try:
        known = Fingerprints(run, corpus_read_as, compare=False)
        record = None if force else finished(run, node, known, readers)
        if record is None:
            check_run(run)
            with _turn(run):
                record = _run_stage(run, node, runner, listeners, force, wait, corpus_read_as)
    except XdcError as error:
        for listener in listeners:
            listener.failed(node, error)
        raise
    for listener in listeners:
        listener.finished(node, record)
    return record


def _turn(run: Run) -> contextlib.AbstractContextManager[object]:
    """Return the lock that is held while a stage of the run is in progress."""
    if run.config.runs_on.parallel:
        return contextlib.nullcontext()
    return _ONE_AT_A_TIME.setdefault(run.root.resolve(), threading.Lock())


def _run_stage(
    run: Run,
    node: Node,
    runner: StageRunner,
    listeners: Sequence[Listener],
    force: bool,
    wait: bool,
    corpus_read_as: str | None,
) -> Record:
    def progress(done: int, total: int, note: str = "") -> None:
        for listener in listeners:
            listener.progress(node, done, total, note)

    pause = WAIT_S
    while True:
        try:
            return runner.run_stage(run, node, force, progress, corpus_read_as)
        except Busy as busy:
            if not wait:
                raise
            for listener in listeners:
                listener.waiting(node, busy)
            runner.pause(pause)
            pause = min(2 * pause, LONGEST_WAIT_S)
