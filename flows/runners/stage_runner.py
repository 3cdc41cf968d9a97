"""The interface for running stages: in this process (`in_process.py`) or in a forked child (`forked.py`)."""

from typing import Protocol

from shards.progress import Progress, silent
from shards.store.build import Record
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


class StageRunner(Protocol):
    """Run stages, several at once from several threads, until it is closed."""

    def run_stage(
        self,
        run: Run,
        node: Node,
        force: bool = False,
        progress: Progress = silent,
        corpus_read_as: str | None = None,
    ) -> Record:
        """Call `xdc_core.graph.run_stage.run_stage` with the configuration of `run` in memory.

        Raises:
            StageError, ConfigError, Busy: what the stage raised; StageError also if this is closed.
        """

    def pause(self, seconds: float) -> None:
        """Wait, at most until this is closed."""

    def close(self) -> None:
        """End the stages in progress if possible, and start no more."""
