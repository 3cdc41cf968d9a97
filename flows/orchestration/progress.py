"""The progress of a node on Prefect's pages and in the log of its task."""

import time
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from flows.orchestration.artifacts import artifact_key
from flows.orchestration.best_effort import only_reported
from shards.errors import Busy, XdcError
from shards.store.build import Record
from xdc_core.graph.stages import STAGES
from xdc_core.runs.node import Node

UPDATE_S = 2.0


class ProgressArtifact:
    """The log of a node's task, and its progress artifact: made at the first progress, updated every two seconds."""

    def __init__(self, run_name: str, node: Node) -> None:
        self.key = artifact_key(run_name, node.name)
        self.artifact: UUID | None = None
        self.updated = time.monotonic()
        self.waited = False

    def progress(self, node: Node, done: int, total: int, note: str) -> None:
        """Show the finished share, unless it was shown less than two seconds ago."""
        now = time.monotonic()
        if now - self.updated < UPDATE_S:
            return
        share, text = 100.0 * done / max(total, 1), f"{node}: {done} of {total} {note}"
        self.updated = now
        with only_reported(text):
            if self.artifact is None:
                # Called from synchronous code it returns no coroutine, although its signature allows one.
                self.artifact = cast(UUID, create_progress_artifact(share, key=self.key, description=text))
            else:
                update_progress_artifact(self.artifact, share, description=text)

    def waiting(self, node: Node, busy: Busy) -> None:
        """Show for which process the node waits; the first time also in the log."""
        if not self.waited:
            get_run_logger().warning("%s waits, and will continue without intervention: %s", node, busy)
            self.waited = True
        self.progress(node, 0, 1, f"waiting: {busy}")

    def finished(self, node: Node, record: Record) -> None:
        """Leave the artifact at 100 %, and say in the log what was made or reused, and where."""
        made = STAGES[record.stage].amount(record.rows, record.summary)
        how = "reused" if record.reused else "done"
        text = "%s: %s, %s, %d rejects, %.1f s, in %s"
        get_run_logger().info(text, node, how, made, record.rejects, record.seconds, Path(record.path).resolve())
        if self.artifact is not None:
            with only_reported(str(node)):
                update_progress_artifact(self.artifact, 100.0, description=f"{node}: done")

    def failed(self, node: Node, error: XdcError) -> None:
        """Leave the artifact unchanged; the task's state has the error."""
