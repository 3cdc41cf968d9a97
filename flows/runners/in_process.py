"""Stages in this process: for scripts, notebooks and tests, where no fork server is wanted."""

import threading

from shards.errors import StageError
from shards.progress import Progress, silent
from shards.store.build import Record
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


class InProcess:
    """A `StageRunner` that calls the stage in the thread that asks for it."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def run_stage(
        self,
        run: Run,
        node: Node,
        force: bool = False,
        progress: Progress = silent,
        corpus_fingerprint: str | None = None,
    ) -> Record:
        """Do a stage. A stage in progress cannot be ended from another thread.

        Raises:
            StageError, ConfigError, Busy: what the stage raised; StageError also once this is closed.
        """
        if self._closed.is_set():
            raise StageError("not started: the run is being stopped.")
        return run_stage(run, node, force, progress, corpus_fingerprint)

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until this is closed."""
        self._closed.wait(seconds)

    def close(self) -> None:
        """Start no more stages."""
        self._closed.set()
