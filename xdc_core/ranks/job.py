"""The job file: all that the agents and ranks of one training need to know."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shards.errors import StageError
from shards.store.executor import check_version
from shards.store.files import write_json

FOLDER = "logs/ranks"  # In a run: a folder per training, with the job file and a log per machine.
JOB = "job.json"
TIMEOUT_S, RESTARTS = 600.0, 3  # Of trainings on several machines, unless runs_on says otherwise.


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


def read_values(path: Path) -> dict[str, Any]:
    """Read a job file as it is: at least `host`, `port` and `identity`, with which the stage can be reached.

    Raises:
        StageError: there is none, because the training has ended; or it is that of a very different version.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())
        if missing := {"host", "port", "identity"} - values.keys():
            raise StageError(f"{path} is not a job of this version of xdc: it has no {', '.join(sorted(missing))}.")
    except FileNotFoundError as error:
        raise StageError(f"{path} does not exist: the training has ended, or has not begun.") from error
    return values


def job_of(values: dict[str, Any]) -> RankJob:
    """Return the job of a file's values.

    Raises:
        StageError: another version of the package wrote them.
    """
    check_version(str(values.get("name")), values.get("version"))
    return RankJob(**values)
