"""The job file: all that the agents and ranks of one training need to know."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shards.errors import StageError
from shards.store.files import write_json

FOLDER = "logs/ranks"  # In a run: a folder per training, with the job file and a log per machine.
JOB = "job.json"


@dataclass(frozen=True)
class RankJob:
    """The work of all ranks of one training, and the way to the stage that started it.

    name: the node, for messages. work: "module:function", called in every rank with (document, arguments, send).
    document: the stage's task. machines: one agent on each. processes: ranks per machine. host, port: of the store in
    the stage's process. identity: differs between any two attempts. timeout: seconds that machines and ranks wait for
    each other. restarts: how often an agent starts its ranks again. logs: folder for one log per machine; None: agents
    keep the output that they were started with. version: of the package xdc.
    """

    name: str
    work: str
    document: Mapping[str, Any]
    arguments: list[str]
    machines: int
    processes: int
    host: str
    port: int
    identity: str
    timeout: float
    restarts: int
    logs: str | None
    version: str


def write_job(path: Path, job: RankJob) -> None:
    """Write a job file."""
    write_json(path, asdict(job))


def read_job(path: Path) -> RankJob:
    """Read a job file.

    Raises:
        StageError: there is none, because the training has ended.
    """
    try:
        return RankJob(**json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise StageError(f"{path} does not exist: the training has ended, or has not begun.") from error
