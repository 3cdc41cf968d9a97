"""How every node of a run stands."""

from collections import Counter
from pathlib import Path
from typing import Any

from shards.commit import read_manifest
from xdc_core.graph import Fingerprints, all_nodes, node_state
from xdc_core.run import open_run

MARKS = {"fresh": "green", "stale": "yellow", "partial": "cyan", "missing": "dim"}


def read_status(root: Path) -> list[dict[str, Any]]:
    """A row a node: stage, modality, round, state, why, path, rows, seconds."""
    run = open_run(root)
    fingerprints = Fingerprints(run)
    rows = []
    for node in all_nodes(run.config):
        state, why = node_state(run, node, fingerprints)
        manifest = read_manifest(run.directory(node))
        rows.append(
            {
                "round": node.round,
                "stage": node.stage,
                "modality": node.modality,
                "state": state,
                "why": why,
                "rows": manifest.rows if manifest else None,
                "seconds": manifest.seconds if manifest else None,
                "path": str(run.directory(node)),
            }
        )
    return rows


def print_status(root: Path, rows: list[dict[str, Any]]) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, justify in (("round", "right"), ("stage", "left"), ("state", "left"), ("rows", "right"), ("s", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("where, and why", overflow="fold")
    for row in rows:
        stage = f"{row['stage']}.{row['modality']}" if row["modality"] else row["stage"]
        where = Path(row["path"])
        shown = where.relative_to(Path.cwd()) if where.is_relative_to(Path.cwd()) else where
        note = f"{shown}{': ' + row['why'] if row['why'] else ''}" if row["state"] != "missing" else ""
        table.add_row(
            "" if row["round"] is None else str(row["round"]),
            stage,
            Text(row["state"], style=MARKS[row["state"]]),
            "" if row["rows"] is None else str(row["rows"]),
            "" if row["seconds"] is None else f"{row['seconds']:.1f}",
            Text(note),
        )
    console = Console()
    console.print(table)
    counts = Counter(row["state"] for row in rows)
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()), highlight=False)
    if counts.keys() - {"fresh"}:
        console.print(f"To do what is left: xdc run {root}", highlight=False)
