"""One Prefect task per node: reuse what is fresh, else have a child process do the stage."""

import contextlib
import threading
import time
from dataclasses import replace
from typing import Any, cast
from uuid import UUID

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.artifacts import artifact_key, publish_round
from flows.children import CHILDREN
from flows.listeners import LISTENERS
from shards.errors import XdcError
from shards.stage import Record
from xdc_core.run import Node, open_run
from xdc_core.stage import reuse

UPDATE_S = 2.0


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
        if self.artifact is None:
            # From synchronous code it is no coroutine, whatever its signature says.
            self.artifact = cast(UUID, create_progress_artifact(share, key=self.key, description=text))
        else:
            update_progress_artifact(self.artifact, share, description=text)

    def finish(self) -> None:
        """Leave it at 100 %."""
        if self.artifact is not None:
            update_progress_artifact(self.artifact, 100.0, description=f"{self.node}: done")


# Held by the stage at work where the configuration wants one at a time.
ONE_AT_A_TIME = threading.Lock()


@task(task_run_name="{node.name}", cache_policy=NO_CACHE, persist_result=False)
def do_node(run: str, node: Node, force: bool = False) -> State[Any] | Record:
    """Do one node. The manifest is the truth: a fresh one gives the state Cached, whatever Prefect remembers.

    Raises:
        XdcError: the stage failed; what it had finished is kept.
    """
    opened = open_run(run)
    if not force and (record := reuse(opened, node)):
        for listener in LISTENERS:
            listener.finished(node, record)
        return Completed(name="Cached", message=f"reused {record.path}", data=record)
    progress = ProgressArtifact(opened.root.resolve().name, node)
    alone = contextlib.nullcontext() if opened.config.runs_on.parallel else ONE_AT_A_TIME
    try:
        with alone:
            CHILDREN.run_stage(opened, node, force, progress)
    except XdcError as error:
        for listener in LISTENERS:
            listener.failed(node, str(error))
        raise
    progress.finish()
    made = reuse(opened, node)
    if made is None:
        raise XdcError(
            f"{node} was done, but its directory does not check out. Did something else change it meanwhile?"
        )
    if node.stage == "report":
        publish_round(opened, node)
    made = replace(made, reused=False)
    for listener in LISTENERS:
        listener.finished(node, made)
    return made
