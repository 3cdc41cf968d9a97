"""A job and its units as files in the partial directory, for workers in other processes."""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from shards.errors import ConfigError, MachineError
from shards.store.executor import Job, Unit, check_version
from shards.store.files import new_file, write_json
from shards.store.receipt import UNITS

JOB, LIST = "job.json", "units.jsonl"


def write_job(job: Job, units: Iterable[Unit]) -> Path:
    """Write job.json and units.jsonl, one unit a line, into the job's folder `.units`. Return the path of job.json."""
    folder = Path(job.out) / UNITS
    with new_file(folder / LIST) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(unit)) + "\n" for unit in units)
    write_json(folder / JOB, asdict(job))
    return folder / JOB


def read_job(path: Path) -> Job:
    """Read a job.

    Raises:
        MachineError: the file is gone: the stage has been committed, or continued by another process; or this machine
            does not see it.
        StageError: another version of the package wrote it.
        ConfigError: the file is not that of a job.
    """
    try:
        values = json.loads(path.read_bytes())
        check_version(str(values["name"]), values["version"])  # The fields of another version may be others.
        return Job(**values)
    except FileNotFoundError:
        raise MachineError(
            f"{path} is not there: its stage is finished, was continued by another process, or is on a disk that this "
            "machine does not see. There is nothing to do for this worker."
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is not a job of this version of xdc ({error!r}).") from error


def read_units(path: Path, numbers: Collection[int] | None = None) -> Iterator[Unit]:
    """Yield the units of the job at `path`, in order: those on the lines `numbers` (from 0), or all.

    Raises:
        ConfigError: there is no such line.
    """
    wanted = None if numbers is None else frozenset(numbers)
    last = max(wanted, default=-1) if wanted is not None else None
    line = -1
    with path.with_name(LIST).open(encoding="utf-8") as file:
        for line, text in enumerate(file):
            if last is not None and line > last:
                return
            if wanted is None or line in wanted:
                values = json.loads(text)
                yield Unit(values["number"], tuple(values["shards"]))
    if last is not None and last > line:
        raise ConfigError(f"{path.with_name(LIST)} has units 0 to {line}, but unit {last} was asked for.")
