"""`xdc clean` on the terminal, and what a run makes again of what was cleaned."""

import sys
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.filesize import decimal

from shards.command import command
from xdc_core.cleaning.clean import Cleaning
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import made_again
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

SHOWN = 12


def print_cleaning(root: Path, cleaning: Cleaning, dry_run: bool) -> None:
    """Print what takes space, by kind, and what was removed, or would be."""
    from rich.console import Console
    from rich.table import Table

    removed: dict[str, int] = defaultdict(int)
    for removal in cleaning.removed:
        removed[removal.kind] += removal.bytes
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("kind")
    for head in ("files", "size", "can be removed" if dry_run else "removed"):
        table.add_column(head, justify="right")
    for row in cleaning.usage:
        table.add_row(row.kind, str(row.files), decimal(row.bytes), decimal(removed.get(row.kind, 0)))
    total = sum(row.bytes for row in cleaning.usage)
    table.add_row("all", str(sum(row.files for row in cleaning.usage)), decimal(total), decimal(sum(removed.values())))
    Console().print(table)
    lines = [f"{_place(removal.path)}: {decimal(removal.bytes)}, {removal.why}" for removal in cleaning.removed]
    lines += [f"kept: {_place(entry.path)}: {entry.why}" for entry in cleaning.kept]
    for line in lines[:SHOWN]:
        print(line)
    if lines[SHOWN:]:
        print(f"and {len(lines) - SHOWN} more: {command('xdc', 'clean', root, '--json')}")
    linked = sum(removal.linked for removal in cleaning.removed)
    if linked:
        print(f"{decimal(linked)} have another name outside these directories (hard links) and stay on the disk there.")
    elsewhere = sum(row.linked for row in cleaning.usage)
    if elsewhere:
        print(f"{decimal(elsewhere)} of the run's files also have a name elsewhere (hard links). Each is counted once.")
    what = "would free" if dry_run else "freed"
    print(f"{root}: {what} {decimal(cleaning.freed)}.")


def _place(path: str) -> Path:
    place = Path(path)
    return place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place


def print_made_again(run: Run, nodes: Sequence[Node], forced: Collection[Node] = ()) -> None:
    """Print which cleaned nodes a run of these nodes makes again, because another one needs them.

    forced: those of the nodes that are built even if they are fresh.
    """
    for node, reader, seconds in made_again(run, nodes, Fingerprints(run, compare=False), forced):
        print(
            f"{node} was cleaned, and {reader} needs it: it is made again ({seconds:.0f} s the first time).",
            file=sys.stderr,
        )
