"""Stages in this process: for scripts, notebooks and tests, without a fork server."""

import threading

from flows.executors.local import LOCAL
from flows.executors.registry import executor_of
from shards.errors import StageError
from shards.progress import Progress, silent
from shards.store.build import Record
from shards.store.executor import IN_PROCESS
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


class InProcess:
    """A `StageRunner` that runs the stage in the calling thread; with the executor `local` also its units."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def run_stage(
        self,
        run: Run,
        node: Node,
        force: bool = False,
        progress: Progress = silent,
        corpus_read_as: str | None = None,
    ) -> Record:
        """Run a stage. A stage in progress cannot be ended from another thread.

        Raises:
            StageError, ConfigError, Busy: what the stage raised; StageError also if this is closed.
        """
        if self._closed.is_set():
            raise StageError("not started: the run is being stopped.")
        # This process may have threads, and then it cannot be forked.
        local = run.config.runs_on.executor == LOCAL.name
        executor = IN_PROCESS if local else executor_of(run.config.runs_on)
        return run_stage(run, node, force, progress, corpus_read_as, executor)

    def pause(self, seconds: float) -> None:
        """Wait, at most until this is closed."""
        self._closed.wait(seconds)

    def close(self) -> None:
        """Start no more stages."""
        self._closed.set()
