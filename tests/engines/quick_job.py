"""A job whose units take no time, with an executor: `python -m tests.engines.quick_job EXECUTOR SETTINGS OUT WORK N`.

Prints JSON: the error, if there was one, how many units the executor had taken and not done at most, the processes of
the workers, what was waited for, and the job's seconds.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.executors.registry import executor_of
from shards.errors import StageError, XdcError
from shards.store.executor import Advance, Job, Unit
from shards.store.files import write_text
from shards.store.receipt import Receipt, new_shard
from shards.store.units import begin_units
from tests.processes import PATIENCE_S
from xdc_core.config.schema import RunsOn

BAD = "000002"


def write_shards(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """Write a file per shard; the receipt notes the process."""
    for shard in shards:
        with new_shard(Path(arguments["out"]), shard) as new:
            write_text(new.folder / f"{shard}.txt", shard)
            new.rows, new.notes = 1, {"pid": os.getpid()}
        yield new.stored


def _bad_shard(arguments: dict[str, Any], shards: list[str], advance: Advance, bad: Callable[[], Any]) -> Any:
    for shard in shards:
        if shard == BAD:
            print("this is the bad shard", flush=True)
            bad()
        yield from write_shards(arguments, [shard], advance)


def refuse(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """Raise what a stage raises, at one shard."""

    def bad() -> None:
        raise StageError(f"{BAD}.tar is cut.")

    return _bad_shard(arguments, shards, advance, bad)


def fail(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """Raise what no stage raises, at one shard."""
    return _bad_shard(arguments, shards, advance, lambda: [][0])


def die(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """End the process, at one shard."""
    return _bad_shard(arguments, shards, advance, lambda: os._exit(3))


def wait(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """Wait until there is a file `go`, but not for ever."""
    deadline = time.monotonic() + PATIENCE_S
    while not (Path(arguments["out"]) / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    yield from write_shards(arguments, shards, advance)


def main(executor: str, settings: str, out: str, work: str, count: str) -> None:
    """Run the job, and print what came of it. "twice": another follows at once; "apart": another follows later."""
    begin_units(Path(out), [])
    ahead = [0]
    taken: set[int] = set()
    pids: set[int] = set()

    def units() -> Iterator[Unit]:
        for number in range(int(count)):
            taken.add(number)
            ahead.append(len(taken))
            yield Unit(number, (f"{number:06d}",))

    def received(receipt: Receipt) -> None:
        taken.discard(int(receipt.shard))
        pids.add(receipt.notes["pid"])

    waiting: set[str] = set()

    def advance(good: int, rejected: int, text: str = "") -> None:
        waiting.add(text)

    name = "write_shards" if work in ("twice", "apart") else work
    job = Job("a test", f"tests.engines.quick_job:{name}", {"out": out}, out, f"{out}/logs", "torch")
    first = replace(job, more=work == "twice")
    error, started = "", time.monotonic()
    with_workers: Any = executor_of(RunsOn(executor=executor, executor_settings=json.loads(settings)))
    with_workers.ahead = 20
    try:
        with_workers.run(first, units(), received, advance)
        if name != work:
            again = Unit(int(count), (f"{int(count):06d}",))
            with_workers.run(job, [again], received, advance)
    except XdcError as raised:
        error = f"{type(raised).__name__}: {raised}"
    seconds = time.monotonic() - started
    found = {"error": error, "ahead": max(ahead), "pids": sorted(pids), "waiting": sorted(waiting), "seconds": seconds}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
