"""A work of units that needs no clips: what each shard does is in the arguments, and so is the stage around it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.store.executor import Advance, Job
from shards.store.files import write_text
from shards.store.receipt import Receipt, new_shard
from tests.processes import wait_for

SIZES = {f"{number:06d}": number % 7 + 1 for number in range(40)}


def write_shards(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """Write a file per shard. `trouble` has what happens before, by shard; a file in `once` is left the first time."""
    out = Path(arguments["out"])
    for shard in shards:
        time.sleep(arguments.get("seconds", 0))
        match arguments.get("trouble", {}).get(shard):
            case "die":
                os.write(2, b"a last word\n")
                os.kill(os.getpid(), signal.SIGKILL)
            case "die once" if _first_time(arguments, shard):
                os.kill(os.getpid(), signal.SIGKILL)
            case "wait":
                wait_for("never", lambda: False)
            case "raise":
                raise ZeroDivisionError(f"in {shard}")
        with new_shard(out, shard) as new:
            write_text(new.folder / f"{shard}.txt", shard * 3)
            new.rejects = int(SIZES[shard] > 6)
            new.rows = SIZES[shard] - new.rejects
            new.notes = {"processes": os.getpid()} if arguments.get("noted") else {}
        yield new.stored


def _first_time(arguments: dict[str, Any], shard: str) -> bool:
    try:
        (Path(arguments["once"]) / shard).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def job_in(out: Path, **arguments: Any) -> Job:
    """The job of all shards of SIZES, in a partial directory."""
    return Job(
        "fake of round 0",
        f"{__name__}:write_shards",
        {"out": str(out), **arguments},
        str(out),
        str(out.parent / "logs"),
        "torch",
    )
