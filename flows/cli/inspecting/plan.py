"""`xdc plan` on the terminal: what a run will take, and whether its disks hold it."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from flows.cli.inspecting.trial import try_sample
from xdc_core.cleaning.usage import files_below
from xdc_core.graph.stages import all_nodes
from xdc_core.planning.arithmetic import HOUR, span
from xdc_core.planning.estimate import Range
from xdc_core.planning.forecast import Forecast, forecast
from xdc_core.runs.node import SHARD
from xdc_core.runs.run import Run, open_run

UNPLANNED = ("data", "embed", "eval")  # A plan has no evaluations.
HOLDS, UNSURE, TOO_SMALL = "holds it", "may not hold it", "does not hold it"


@dataclass(frozen=True)
class Disk:
    """A disk, and what the run needs of it.

    folders: those on it, of "corpus" and "run". need: bytes in addition to `there`, those that planned nodes have
    there already. verdict: whether the disk holds the upper end of the range, or at least the estimate.
    """

    folders: Mapping[str, str]
    need: Range
    there: int
    free: int
    verdict: str


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _planned_files(run: Run, place: str) -> Iterator[Path]:
    for node in all_nodes(run.config):
        if (node == SHARD) == (place == "corpus") and node.stage not in UNPLANNED:
            yield from files_below(run.directory(node))


def disks(run: Run, places: Mapping[str, Range], free: Callable[[Path], int] = free_bytes) -> list[Disk]:
    """Return what a run needs of each of its disks. places: bytes of "corpus" and "run".

    What is there already of the planned nodes is not needed again; other files, such as embeddings, do not count.
    """
    folders = {"corpus": run.corpus, "run": run.root.resolve()}
    by_disk: dict[int, list[str]] = {}
    for place in (place for place in places if place in folders):
        by_disk.setdefault(os.stat(_existing(folders[place])).st_dev, []).append(place)
    found = []
    for here in by_disk.values():
        paths = {path for place in here for path in _planned_files(run, place)}
        there = sum(path.lstat().st_size for path in paths)
        low, middle, high = (
            max(0.0, sum(getattr(places[place], end) for place in here) - there) for end in ("low", "middle", "high")
        )
        left = free(folders[here[0]])
        verdict = HOLDS if high <= left else UNSURE if middle <= left else TOO_SMALL
        names = {place: str(folders[place]) for place in here}
        found.append(Disk(names, Range(low, middle, high), there, left, verdict))
    return found


def make_plan(root: Path, videos: int) -> tuple[Forecast, list[Disk]]:
    """Try a sample of a run's sources in a temporary folder, which is removed in the end, and return the plan.

    Raises:
        ConfigError, StageError: as `try_sample`.
    """
    run = open_run(root)
    with tempfile.TemporaryDirectory(prefix="xdc-plan-", ignore_cleanup_errors=True) as folder:
        made = forecast(run.config, try_sample(run, videos, Path(folder).resolve()))
    return made, disks(run, made.places)


def as_json(made: Forecast, on: list[Disk]) -> dict[str, Any]:
    """Return a plan as JSON values."""
    return asdict(made) | {"disks": [asdict(disk) for disk in on]}


def print_plan(root: Path, made: Forecast, on: list[Disk]) -> None:
    """Print a plan: a table of stages, one of what lies on the disks, and the verdicts."""
    from rich.console import Console
    from rich.table import Table

    console = Console()

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    read = "all" if made.headers_read == made.sources else f"{made.headers_read}"
    say(
        f"{made.sources} sources; the headers of {read} say {_hours(made.media_hours)} of media. {made.tried} sources "
        f"were tried, {made.unusable} of them ({made.unusable / made.tried:.0%}) give no clip: {_count(made.clips)} "
        "clips in all."
    )
    if made.unread:
        say(f"Other inputs, rejected by their names or rows: {made.unread}.")
    for reject in made.rejects:
        say(f"  rejected of the sample: {reject}")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("stage")
    for head in ("times", "each time", "from", "to", "memory of the stage"):
        table.add_column(head, justify="right")
    for row in made.stages:
        memory = decimal(round(row.memory)) if row.memory else ""
        table.add_row(row.node, str(row.times), *_spans(row.hours), memory)
    table.add_row("a round", str(made.rounds), *_spans(made.round_hours), "")
    table.add_row("the whole run", "1", *_spans(made.hours), "")
    console.print(table)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("on the disk")
    table.add_column("folder")
    for head in ("size", "from", "to"):
        table.add_column(head, justify="right")
    for part in made.disk:
        table.add_row(part.what, part.place, *_sizes(part.bytes))
    console.print(table)
    for disk in on:
        folders = " and ".join(f"{name} ({path})" for name, path in disk.folders.items())
        low, high = decimal(round(disk.need.low)), decimal(round(disk.need.high))
        have = f" beside the {decimal(disk.there)} that are there" if disk.there else ""
        say(
            f"The disk of {folders} {disk.verdict}: {decimal(round(disk.need.middle))} ({low} to {high}) are "
            f"needed{have}, and {decimal(disk.free)} are free."
        )
        if disk.verdict != HOLDS:
            say("  Less is needed with retain: {rounds: 1}, fewer rounds, or corpus.path elsewhere: docs/disk.md.")
    for note in made.notes:
        say(f"note: {note}")


def _spans(hours: Range) -> tuple[str, str, str]:
    return _short(hours.middle), _short(hours.low), _short(hours.high)


def _short(hours: float) -> str:
    """Return hours as text, with seconds below two minutes."""
    return f"{hours * HOUR:.0f} s" if hours * 60 < 2 else span(hours)


def _sizes(size: Range) -> tuple[str, str, str]:
    return decimal(round(size.middle)), decimal(round(size.low)), decimal(round(size.high))


def _hours(hours: Range) -> str:
    if hours.low == hours.high:
        return _short(hours.middle)
    return f"{_short(hours.middle)} ({_short(hours.low)} to {_short(hours.high)})"


def _count(number: Range) -> str:
    return f"{number.middle:,.0f} ({number.low:,.0f} to {number.high:,.0f})"
