"""A stage of very many units: time and memory of its coordinator, with workers that die at random.

    PYTHONPATH=. python benchmarks/scale.py [--units 1000 10000 100000] [--deaths 0.001] [--folder /dev/shm]

The coordinator is the real one: `build`, `run_units`, the local executor with worker processes, receipts and the
commit. Only the units' work is not: a shard is an empty file, so that what is left is the cost of the units
themselves. A worker dies (SIGKILL) at a shard with the probability --deaths. In the middle the coordinator is killed,
too, and a second one continues. Columns:

    s, us/unit      of both coordinators together, from the first plan to the commit
    again ms        what the second one needs to find out what is done
    commit s        from the last receipt to the committed directory
    peak MB         of the second coordinator
    bytes/unit      what it has grown by to that peak, per unit
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from side_by_side import parser, record

from flows.executors.local import LocalWorkers
from shards.store.build import Identity, Outcome, build
from shards.store.executor import Advance, Job, run_units
from shards.store.manifest import read_manifest
from shards.store.receipt import Receipt, new_shard, receipts_of
from shards.store.units import add_up
from xdc_core.config.schema import RunsOn

FINGERPRINT = "f" * 64


def write_shards(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """Store an empty file a shard; die at random."""
    out = Path(arguments["out"])
    for shard in shards:
        if random.random() < arguments["deaths"]:
            os.kill(os.getpid(), signal.SIGKILL)
        with new_shard(out, shard) as new:
            (new.folder / f"{shard}.txt").touch()
            new.rows = 1
        yield new.stored


def status(field: str) -> int:
    """A field of /proc/self/status that is in kB, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def coordinate(target: Path, count: int, workers: int, deaths: float, stop_at: int | None, costs: int) -> None:
    """Build the directory, as the coordinator of a stage does; at `stop_at` shards it is killed."""
    times = {"began": time.time()}
    executor = LocalWorkers(workers, RunsOn(device="cpu"))
    Path("/proc/self/clear_refs").write_text("5")  # The peak is counted from here on.
    before = status("VmRSS")

    def progress(done: int, total: int, note: str = "") -> None:
        times.setdefault("planned", time.time())
        if stop_at is not None and done >= stop_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def work(out: Path) -> Outcome:
        sizes = {f"{number:06d}": 1 for number in range(count)}  # Each shard has one clip.
        arguments = {"out": str(out), "deaths": deaths}
        job = Job("simulation", f"{__name__}:write_shards", arguments, str(out), str(target.parent / "logs"), "torch")
        times["listed"] = time.time()
        run_units(executor, job, sizes, 1, progress)
        times["done"] = time.time()
        rows, rejects, notes = add_up(receipts_of(out, sizes), sizes)
        return Outcome(rows, rejects, notes, tuple(f"{shard}.txt" for shard in sizes))

    build(target, Identity("simulation", 1, FINGERPRINT), work)
    times["committed"] = time.time()
    peak = status("VmHWM")
    executor.close()
    os.write(costs, json.dumps(times | {"peak": peak, "grown": peak - before}).encode())


def simulate(count: int, workers: int, deaths: float, place: Path | None) -> dict[str, float]:
    """Build a directory of so many units, with a coordinator that is killed in the middle. Return the costs."""
    read, write = os.pipe()
    with tempfile.TemporaryDirectory(dir=place) as folder:
        target = Path(folder) / "out"
        began = time.time()
        for stop_at, wanted in ((count // 2, -signal.SIGKILL), (None, 0)):
            process = os.fork()
            if process == 0:
                code = 1
                try:
                    coordinate(target, count, workers, deaths, stop_at, write)
                    code = 0
                except BaseException:  # noqa: BLE001 - outermost level of the process
                    traceback.print_exc()
                finally:
                    os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            if code != wanted:
                raise SystemExit(f"a coordinator of {count} units ended with {code}, and {wanted} was expected")
        os.close(write)
        with os.fdopen(read) as costs:
            times = json.load(costs)
        seconds = time.time() - began
        manifest = read_manifest(target)
        assert manifest is not None
        assert len(manifest.files) == manifest.rows == count
    return {
        "units": count,
        "seconds": seconds,
        "us_per_unit": 1e6 * seconds / count,
        "again_ms": 1e3 * (times["planned"] - times["listed"]),
        "commit_s": times["committed"] - times["done"],
        "peak_mb": times["peak"] / 1e6,
        "bytes_per_unit": times["grown"] / count,
    }


def main() -> None:
    """Print a line per size."""
    arguments = parser(__doc__)
    arguments.add_argument("--units", type=int, nargs="+", default=[1000, 10_000, 100_000])
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--deaths", type=float, default=0.001)
    arguments.add_argument("--folder", type=Path, help="where to build, such as /dev/shm, which is no disk")
    given = arguments.parse_args()
    if given.workers < 2:
        arguments.error("--workers must be at least 2: one worker is the coordinator's own process, which must not die")
    names = ("units", "seconds", "us_per_unit", "again_ms", "commit_s", "peak_mb", "bytes_per_unit")
    print("".join(f"{name:>16}" for name in names))
    found = []
    for count in given.units:
        found.append(simulate(count, given.workers, given.deaths, given.folder))
        print("".join(f"{found[-1][name]:>16,.1f}" for name in names), flush=True)
    record(given.out, sizes=found)


if __name__ == "__main__":
    sys.modules["scale"] = sys.modules["__main__"]
    main()
