"""What one training rank holds per clip of a corpus, and what opening and looking up rows cost.

    PYTHONPATH=. python benchmarks/index_rows.py FOLDER [--rows 5000000] [--per-shard 1000] [--ranks 2]

FOLDER gets a synthetic corpus (an index without tars, about 200 bytes per row) with pseudo-labels, and is left there: a
second call only measures. Three kinds of processes are measured: one that writes the columns of the index, one that
writes the targets of a round, and the ranks. Every rank opens the targets, reads its share of the draws with their
pseudo-labels, and looks up the index row of each. All ranks are alive when their memory is read from
/proc/self/smaps, so that what they share does not count as private to one of them.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import parser, record

from shards.indexing.columns import columns_of
from tests.xdc_core.synthetic import training_task, write_rows
from xdc_core.training.targets import open_targets, write_targets

MB = 1e6


def memory() -> dict[str, int]:
    """Bytes of this process: private to it, anonymous (of no file), and mapped from files."""
    found = {"private": 0, "anonymous": 0, "mapped": 0}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        if name in ("Private_Clean:", "Private_Dirty:"):
            found["private"] += 1024 * int(values[0])
        elif name == "Anonymous:":
            found["anonymous"] += 1024 * int(values[0])
        elif name == "Rss:":
            found["mapped"] += 1024 * int(values[0])
    return found | {"mapped": found["mapped"] - found["anonymous"]}


def anonymous() -> int:
    """Bytes of this process that are of no file."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")))


def peak_of(work: Callable[[], object]) -> dict[str, float]:
    """The seconds of some work, and the most bytes of no file that it held beside those of before."""
    before, peaks, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peaks.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    clock = time.monotonic()
    work()
    seconds = time.monotonic() - clock
    done.set()
    watcher.join()
    return {"seconds": round(seconds, 3), "peak": max(peaks) - before}


def as_columns(folder: Path, clips: int) -> dict[str, Any]:
    """Write the columns."""
    return peak_of(lambda: columns_of(folder / "corpus", folder))


def as_targets(folder: Path, clips: int) -> dict[str, Any]:
    """Write the targets of a round."""
    task = training_task(folder, clips)
    return peak_of(lambda: write_targets(task))


def as_rank(folder: Path, clips: int, rank: int, ranks: int) -> None:
    """Open the targets, look up this rank's share of the draws, and stay until all ranks are measured."""
    task = training_task(folder, clips)
    open_targets(task)  # The imports of the first time are of the process, not of the rows.
    before, clock = memory(), time.monotonic()
    targets = open_targets(task)
    opened = time.monotonic() - clock
    share = targets.draws[rank::ranks]
    labelled = sum(int((targets.targets["audio"][part] >= 0).sum()) for part in np.array_split(share, 100))
    assert labelled == len(share)
    clock = time.monotonic()
    for number in share:
        _, row = targets.rows[int(number)]
    looked_up = time.monotonic() - clock
    assert row["mp4_size"] == 1
    del row, labelled
    print("ready", flush=True)
    sys.stdin.readline()
    after = memory()
    found = {
        "open_ms": round(1000 * opened, 1),
        "lookup_us": round(1e6 * looked_up / len(share), 1),
        "private_mb": round((after["private"] - before["private"]) / MB, 1),
        "per_clip": {name: round((after[name] - before[name]) / clips, 2) for name in before},
    }
    print(json.dumps(found), flush=True)
    sys.stdin.readline()


def main() -> None:
    """Print the figures of each kind of process."""
    arguments = parser(__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--rows", type=int, default=5_000_000)
    arguments.add_argument("--per-shard", type=int, default=1000)
    arguments.add_argument("--ranks", type=int, default=2)
    arguments.add_argument("--as", dest="kind", choices=["columns", "targets", "rank"])
    arguments.add_argument("--rank", type=int, default=0)
    given = arguments.parse_args()
    if given.kind == "rank":
        as_rank(given.folder, given.rows, given.rank, given.ranks)
        return
    if given.kind:
        print(json.dumps({"columns": as_columns, "targets": as_targets}[given.kind](given.folder, given.rows)))
        return
    if not (given.folder / "labels" / "manifest.json").exists():
        clock = time.monotonic()
        write_rows(given.folder, given.rows, given.per_shard, 256)
        print(f"{given.rows:,} rows written in {time.monotonic() - clock:.0f} s", flush=True)

    def started(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, __file__, str(given.folder), f"--rows={given.rows}", f"--ranks={given.ranks}"]
        return subprocess.Popen(
            [*command, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
        )

    figures: dict[str, Any] = {}
    for kind in ("columns", "targets"):
        figures[kind] = found = json.loads(started("--as", kind).communicate()[0])
        each = f"{found['peak'] / MB:.0f} MB, {found['peak'] / given.rows:.1f} bytes per clip"
        print(f"{kind} written in {found['seconds']:.1f} s, at most {each}")
    ranks = [started("--as", "rank", "--rank", str(rank)) for rank in range(given.ranks)]
    for rank in ranks:
        assert rank.stdout is not None
        assert rank.stdout.readline() == "ready\n"
    figures["ranks"] = []
    for rank in ranks:
        assert rank.stdin is not None
        assert rank.stdout is not None
        print("go", file=rank.stdin, flush=True)
        figures["ranks"].append(json.loads(rank.stdout.readline()))
        print(f"rank: {figures['ranks'][-1]}")
    for rank in ranks:
        rank.communicate("done")
    record(given.out, rows=given.rows, **figures)


if __name__ == "__main__":
    main()
