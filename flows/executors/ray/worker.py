"""A worker on a Ray cluster: one process that imports the work once and does many units."""

import json
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from shards.cores import GRANTED
from shards.errors import MachineError, StageError
from shards.log_level import VARIABLE, follow_log_level
from shards.store.executor import Job, Unit
from shards.store.receipt import Receipt
from shards.workers.worker import WorkerError, check_worker, do_units, note_error


@dataclass(frozen=True)
class Place:
    """Where a worker runs: the machine, and the file with its output."""

    host: str
    log: str


class RayWorker:
    """The class of the actors. Its output goes to a file in the folder of the job's logs.

    Units are actors' calls and not Ray tasks, because Ray ends the process of a task that had a GPU, and each new
    process would import torch and load the encoder again.
    """

    def begin(self, values: str, cores: int, log_level: str | None = None) -> Place | WorkerError:
        """Take over a job, given as JSON. Return where this worker is, or why it cannot do the job.

        log_level: that of `xdc --log-level`, which Ray does not hand on with the environment.
        """
        self._job = job = Job(**json.loads(values))
        self._log = Path(job.logs) / f"{platform.node()}-{os.getpid()}.log"
        os.environ[GRANTED] = str(cores)
        try:
            check_worker(job)
        except StageError as error:
            final = not isinstance(error, MachineError)
            return WorkerError(type(error).__name__, str(error), platform.node(), "Ray's logs on that machine", final)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as file:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if log_level:
            os.environ[VARIABLE] = log_level
            follow_log_level()
        return Place(platform.node(), str(self._log))

    def do(self, units: list[Unit]) -> list[Receipt] | WorkerError:
        """Do units. Return the receipts of their shards, except those that were stored before; or what was raised."""
        try:
            return list(do_units(self._job, units))
        except Exception as error:  # noqa: BLE001 - the boundary of the process: the stage raises what is returned
            return note_error(self._job, error, str(self._log))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
