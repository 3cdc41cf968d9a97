"""One Prefect task per node: reuse what is fresh, else have a child process do the stage."""

import flows.orchestration.prefect_defaults  # noqa: F401  # isort: skip - sets what Prefect reads when it is imported

import contextlib
import threading
import time
from typing import Any, cast
from uuid import UUID

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows.orchestration.artifacts import artifact_key, publish_round
from flows.orchestration.best_effort import only_reported
from flows.orchestration.curves import send_curves
from flows.runners.events import LISTENERS
from flows.runners.forked import CHILDREN
from shards.errors import Busy, XdcError
from shards.progress import Progress
from shards.store.build import Record
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import reuse
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run

UPDATE_S = 2.0
WAIT_S, LONGEST_WAIT_S = 1.0, 20.0  # Between two looks whether another process is still at it.


class ProgressArtifact:
    """A progress artifact of one node, made when there is something to tell, updated at most every two seconds."""

    def __init__(self, run_name: str, node: Node) -> None:
        self.node, self.key = node, artifact_key(run_name, node.name)
        self.artifact: UUID | None = None
        self.updated = time.monotonic()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Told by the stage."""
        for listener in LISTENERS:
            listener.progress(self.node, done, total, note)
        now = time.monotonic()
        if now - self.updated < UPDATE_S:
            return
        share, text = 100.0 * done / max(total, 1), f"{self.node}: {done} of {total} {note}"
        self.updated = now
        with only_reported(text):
            if self.artifact is None:
                # From synchronous code it is no coroutine, whatever its signature says.
                self.artifact = cast(UUID, create_progress_artifact(share, key=self.key, description=text))
            else:
                update_progress_artifact(self.artifact, share, description=text)

    def finish(self) -> None:
        """Leave it at 100 %."""
        if self.artifact is not None:
            with only_reported(str(self.node)):
                update_progress_artifact(self.artifact, 100.0, description=f"{self.node}: done")


# Held by the stage at work where the configuration wants one at a time.
ONE_AT_A_TIME = threading.Lock()


def run_or_wait(run: Run, node: Node, force: bool, progress: Progress, corpus: str | None) -> Record:
    """Have a child do a stage. Where another process is at it, wait until that one has finished it, or has died.

    Raises:
        XdcError: what the stage raised, but Busy.
    """
    pause = WAIT_S
    while True:
        try:
            return CHILDREN.run_stage(run, node, force, progress, corpus)
        except Busy as busy:
            if pause == WAIT_S:
                get_run_logger().warning("%s waits, and goes on by itself: %s", node, busy)
            progress(0, 1, f"waiting: {busy}")
            CHILDREN.pause(pause)
            pause = min(2 * pause, LONGEST_WAIT_S)


@task(task_run_name="{node.name}", cache_policy=NO_CACHE, persist_result=False)
def do_node(run: str, node: Node, force: bool = False, shard: Record | None = None) -> State[Any] | Record:
    """Do one node. The manifest is the truth: a fresh one gives the state Cached, whatever Prefect remembers.

    `shard` is the record of the corpus in this flow run, where it is known: the sources are then not listed again.

    Raises:
        XdcError: the stage failed; what it had finished is kept.
    """
    opened = open_run(run)
    corpus = shard.fingerprint if shard else None
    record = None if force else reuse(opened, node, Fingerprints(opened, corpus))
    if record is None:
        progress = ProgressArtifact(opened.root.resolve().name, node)
        alone = contextlib.nullcontext() if opened.config.runs_on.parallel else ONE_AT_A_TIME
        try:
            with alone:
                record = run_or_wait(opened, node, force, progress, corpus)
        except XdcError as error:
            for listener in LISTENERS:
                listener.failed(node, error)
            raise
        progress.finish()
    if node.stage == "report":
        with only_reported(str(node)):
            publish_round(opened, node)
    if node.stage in ("train", "report") and not record.reused:
        send_curves(opened)
    for listener in LISTENERS:
        listener.finished(node, record)
    if record.reused:
        return Completed(name="Cached", message=f"reused {record.path}", data=record)
    return record
