"""One job array: its submission, its end, and what is said if it stores nothing.

The folder `.units/slurm` in a stage's partial directory has, for each array, a file with a line of unit numbers for
each task. The arrays of a stage have one name, which no other stage has: so a stage that continues can cancel what an
earlier, killed one has submitted, also if its configuration was changed meanwhile.
"""

import hashlib
import re
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flows.executors.slurm.jobs import failure, states, submit
from flows.executors.slurm.settings import SlurmSettings, resources
from flows.executors.slurm.tools import PATIENCE_S, NoAnswer
from shards.cores import GRANTED
from shards.errors import StageError, XdcError
from shards.store.executor import Advance, Job
from shards.store.files import new_file
from shards.store.receipt import UNITS, Receipt, read_receipt
from shards.store.units import stored_shards
from shards.workers.worker import noted_errors

ARRAYS = "slurm"
# Seconds between two looks at the receipts, and between two questions to Slurm: the first and the longest.
LOOK_S, LONGEST_LOOK_S = 0.2, 5.0
ASK_S, LONGEST_ASK_S = 2.0, 30.0
UNITS_PER_TASK = 30  # Units take up to a minute, so that starting Python takes a small part of a task's time.
ROUNDS = 4  # Tasks one after another for each of those at the same time: if one is lost, the others do not wait long.
# What a worker writes of a shard that it has stored (xdc_core/__main__.py), and Slurm when the stage has cancelled a
# task that had nothing more to do.
UNINTERESTING = re.compile(
    r"\S+: \d+ rows, \d+ rejects|slurmstepd(-\S+)?: error: \*\*\* JOB \d+ ON \S+ CANCELLED AT \S+ \*\*\*"
)


@dataclass(frozen=True)
class Array:
    """A submitted job array. name: the job's; number: Slurm's."""

    name: str
    number: str


def array_name(job: Job) -> str:
    """Return the name of all arrays of a job, whatever the fingerprint of its stage."""
    out = Path(job.out)
    # As `shards.store.commit.partial_directory` names it: .TARGET.FINGERPRINT.partial
    target = out.parent / re.sub(r"\.[0-9a-f]{12}(-[0-9a-f]+)?\.partial$", "", out.name)
    digest = hashlib.sha256(str(target).encode()).hexdigest()
    return f"xdc-{re.sub(r'[^A-Za-z0-9.]+', '-', job.name)}-{digest[:12]}"


def submit_array(
    job: Job, path: Path, lines: list[int], settings: SlurmSettings, gpus: int, most: int, advance: Advance
) -> Array:
    """Submit an array that does the units on these lines of units.jsonl. path: of job.json. most: of its tasks.

    Raises:
        StageError: Slurm refuses it, or does not answer.
    """
    name = array_name(job)
    tasks = list(shares(lines, settings, most))
    listed = Path(job.out) / UNITS / ARRAYS / uuid.uuid4().hex
    with new_file(listed) as temporary:
        temporary.write_text("".join(" ".join(map(str, task)) + "\n" for task in tasks), encoding="utf-8")
    options = [
        f"--array=0-{len(tasks) - 1}%{settings.tasks}",
        f"--output={job.logs.replace('%', '%%')}/slurm-%A_%a.log",
        "--no-requeue",
        f"--signal=B:TERM@{settings.grace}",
        *resources(settings, gpus),
    ]
    script = _script(settings, job, path, listed)
    return Array(name, submit(name, options, script, partial(advance, 0, 0)))


def _script(settings: SlurmSettings, job: Job, path: Path, listed: Path) -> str:
    python = settings.python or sys.executable
    # As `_log`, for the task itself.
    log = f'{shlex.quote(job.logs)}/slurm-"${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}".log'
    lines = [
        "#!/bin/sh",
        *settings.setup,
        f'units=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(listed))})',
        'if [ -z "$units" ]; then echo "The stage is finished, or was continued by another process."; exit 1; fi',
        f"export XDC_UNIT_LOG={log} {GRANTED}={settings.cpus}",
        f"exec {shlex.quote(python)} -m xdc_core unit {shlex.quote(str(path))} $units",
    ]
    return "\n".join(lines) + "\n"


def shares(lines: list[int], settings: SlurmSettings, most: int) -> Iterator[list[int]]:
    """Yield the numbers of the units of each task of an array that has at most `most` tasks."""
    equal = -(-len(lines) // settings.tasks)
    largest = settings.units_per_task or max(UNITS_PER_TASK, -(-equal // ROUNDS))
    count = max(min(largest, equal), -(-len(lines) // most))
    for first in range(0, len(lines), count):
        yield lines[first : first + count]


def follow(
    array: Array, job: Job, missing: dict[str, int], received: Callable[[Receipt], None], advance: Advance
) -> bool:
    """Take receipts out of `missing` as they come; return when the array has ended (True) or nothing is missing.

    What Slurm says of the tasks is shown with `advance` while none runs, and printed when it changes.

    Raises:
        StageError, ConfigError: a worker raised what another try would raise, too; or Slurm has not answered for long.
    """
    out = Path(job.out)
    look, ask, said = LOOK_S, ASK_S, ""
    heard = asked = time.monotonic()
    ended = False
    while True:
        begun = time.monotonic()
        # After the end each is opened by its name: a listing of a network file system may be some seconds old.
        new = list(missing) if ended else [shard for shard in stored_shards(out) if shard in missing]
        listing = time.monotonic() - begun
        for shard in new:
            if (receipt := read_receipt(out, shard)) is not None:
                del missing[shard]
                received(receipt)
                heard = begun
        for error in noted_errors(out):
            if error.final:
                raise error.raised(job.name)
        if ended or not missing:
            return ended
        if begun - asked > ask:
            asked, ask = begun, min(1.5 * ask, LONGEST_ASK_S)
            try:
                active = states(f"--jobs={array.number}")
                ended, heard = not active, begun
                saying = ", ".join(f"{count} {state}" for state, count in active.items())
                waits = bool(active) and "running" not in active
            except NoAnswer as error:
                saying, waits = f"no answer ({error})", True
                if begun - heard > PATIENCE_S:
                    raise StageError(f"{job.name}: Slurm does not answer: {error}. Run this again.") from error
            advance(0, 0, f"Slurm: {saying}" if waits else "")
            if saying != said:
                said = saying
                print(f"Slurm job {array.number}, {array.name}: {saying or 'ended'}", file=sys.stderr, flush=True)
        if not ended:
            # A folder of many receipts on a network file system is slow to list.
            time.sleep(max(look, min(10 * listing, LONGEST_ASK_S)))
        look = min(1.3 * look, LONGEST_LOOK_S)


def remove_logs(array: Array, job: Job) -> None:
    """Remove the output of tasks that say nothing but what they have stored."""
    for log in Path(job.logs).glob(f"slurm-{array.number}_*.log"):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        if all(UNINTERESTING.fullmatch(line) for line in lines):
            log.unlink(missing_ok=True)


def gave_up(job: Job, array: Array, missing: dict[str, int], fruitless: int) -> XdcError:
    """Return the error for units that were tried too often: that of this last array, not of earlier ones."""
    failed = failure(array.number)
    own = [error for error in noted_errors(Path(job.out)) if Path(error.log).name.startswith(f"slurm-{array.number}_")]
    if own:
        error = own[-1].raised(job.name)
        if failed is None or failed.state == "FAILED":
            return error
        return type(error)(f"{error} Task {failed.task} of Slurm's job {array.number}: {failed}.")
    text = (
        f"{job.name}: {fruitless} Slurm {'arrays' if fruitless > 1 else 'array'} in a row stored nothing; "
        f"{len(missing)} shards are missing ({min(missing)} first). "
    )
    if failed is None:
        return StageError(f"{text}The output of the tasks is in {_log(job, array.number, '*')}.")
    log = Path(_log(job, array.number, failed.task))
    said = ""
    with suppress(OSError):
        said = "".join(log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[-5:])
    return StageError(
        f"{text}Task {failed.task} of job {array.number}: {failed}. {f'The end of {log}:' if said else f'See {log}.'}"
        f"{f'{chr(10)}{said}' if said else ''}"
    )


def _log(job: Job, number: str, task: str) -> str:
    """Return the output file of a task."""
    return f"{job.logs}/slurm-{number}_{task}.log"
