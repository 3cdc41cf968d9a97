"""The doing of a job's units in a worker's process, and what a worker reports if it fails."""

import json
import os
import pkgutil
import platform
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from shards.errors import ConfigError, MachineError, StageError, XdcError
from shards.store.build import machine_trouble_explained
from shards.store.executor import Job, Unit, Work, check_version, uncounted
from shards.store.receipt import ERRORS, UNITS, Receipt, read_receipt


@dataclass(frozen=True)
class WorkerError:
    """What a worker raised: the class's name and the text, the machine, and the file with the traceback.

    final: whether another try would fail, too.
    """

    kind: str
    text: str
    host: str
    log: str
    final: bool

    def raised(self, name: str) -> XdcError:
        """Return the exception for the stage. name: of the job."""
        where = f"(worker on {self.host}; its output is in {self.log})"
        if self.kind == "ConfigError":
            return ConfigError(f"{self.text} {where}")
        if self.final:
            return StageError(f"{self.text} {where}")
        return StageError(f"{name}: {self.kind}: {self.text} {where}")


def check_worker(job: Job) -> None:
    """Check that this process can do a job's units.

    Raises:
        MachineError: it does not see the job's directory.
        StageError: it has another version of the package.
    """
    check_version(job.name, job.version)
    if not (Path(job.out) / UNITS).is_dir():
        raise MachineError(
            f"{platform.node()} does not see {job.out}. The run and its corpus must be on a disk that all machines see "
            "under the same path; or the stage is finished, or was continued by another process."
        )


def do_units(job: Job, units: Iterable[Unit], stopped: Callable[[], bool] = lambda: False) -> Iterator[Receipt]:
    """Do units of a job in this process, and yield each shard's receipt. Shards that have a receipt are left out.

    stopped: is asked after each shard whether to do no more.

    Raises:
        StageError, ConfigError: as `check_worker`, and what the work raises; errors of the machine as MachineError.
    """
    check_worker(job)
    out = Path(job.out)
    shards = [shard for unit in units for shard in unit.shards if read_receipt(out, shard) is None]
    if not shards or stopped():
        return
    work: Work = pkgutil.resolve_name(job.work)
    with machine_trouble_explained(job.name, out):
        for receipt in work(job.arguments, shards, uncounted):
            yield receipt
            if stopped():
                return


def _is_final(error: BaseException) -> bool:
    """Return whether a worker on another machine would raise the same error."""
    return isinstance(error, XdcError) and not isinstance(error, MachineError)


def note_error(job: Job, error: BaseException, log: str) -> WorkerError:
    """Print the traceback of what a worker raised, and note the error in the job's folder `.units/errors`."""
    return note_error_in(Path(job.out) / UNITS, error, log)


def note_error_in(units: Path, error: BaseException, log: str) -> WorkerError:
    """Do the same for a job whose file this process cannot read. units: the folder of the file."""
    if not isinstance(error, XdcError):
        traceback.print_exception(error)
    noted = WorkerError(type(error).__name__, str(error), platform.node(), log, _is_final(error))
    folder = units / ERRORS
    name = uuid.uuid4().hex
    with suppress(FileNotFoundError):  # Another process has continued or committed the stage: nobody reads it.
        (folder / f".{name}.tmp").write_text(json.dumps(asdict(noted)), encoding="utf-8")
        os.rename(folder / f".{name}.tmp", folder / f"{name}.json")
    return noted


def noted_errors(out: Path) -> list[WorkerError]:
    """Return what workers of a job have noted, the oldest first."""
    paths = sorted((out / UNITS / ERRORS).glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return [WorkerError(**json.loads(path.read_bytes())) for path in paths]
