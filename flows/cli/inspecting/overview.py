"""Several runs side by side, for the terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shards.command import command
from xdc_core.modalities.registry import BUILT_IN


def print_runs(folder: Path, runs: list[dict[str, Any]]) -> None:
    """Print a row per run."""
    console = _console()
    if not runs:
        console.print(
            f"There is no run in {folder}. Make one: {command('xdc', 'init', folder / 'first', '--videos', 'FOLDER')}",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
        return
    names = list(dict.fromkeys(name for run in runs for name in run.get("evaluations", {})))
    first, *others = modalities = dict.fromkeys(name for run in runs for name in run.get("modalities", BUILT_IN))
    table = _table("run", "method", "seed", "round", "clips", f"AMI {first}", *others, *names, "finished (UTC)")
    for column in table.columns:  # Heads may break, rows may not.
        column.min_width = 5
    table.columns[0].no_wrap = True
    for run in runs:
        name_cell = Text(str(Path(run["run"]).relative_to(folder)))
        if run["problem"]:
            table.add_row(name_cell, Text("cannot be read", style="yellow"))
            continue
        agreement = run["agreement"]
        table.add_row(
            name_cell,
            run["method"] + (", shuffled" if run["control"] else ""),
            str(run["seed"]),
            f"{'–' if run['reported'] is None else run['reported']} of {run['last_round']}"
            + (", stopped" if run["stopped"] else ""),
            _shown(run["clips"]),
            *(_shown(agreement.get(modality, agreement.get("joint"))) for modality in modalities),
            *(_shown(run["evaluations"].get(name)) for name in names),
            (run["finished"] or "")[:16].replace("T", " "),
        )
    console.print(table)
    for run in runs:
        if run["problem"]:
            console.print(f"{run['run']}: {run['problem']}", highlight=False, markup=False)


def print_difference(difference: dict[str, Any]) -> None:
    """Print what differs in settings, data, results and clusters."""
    console, (a, b) = _console(), difference["runs"]
    console.print(f"a: {a}\nb: {b}\n", highlight=False, markup=False)
    if difference["settings"]:
        table = _table("setting", "a", "b")
        for name, (ours, theirs) in difference["settings"].items():
            table.add_row(name, Text(str(ours)), Text(str(theirs)))
        console.print(table)
    else:
        console.print("All settings are the same.")
    data = difference["data"]
    same = "the same corpus" if data["same"] else f"{data['shared']} of them in both"
    console.print(f"\nClips: {data['clips'][0]} and {data['clips'][1]}, {same}\n", highlight=False)
    if difference["results"]:
        table = _table("round", "measure", "a", "b", "b - a")
        for row in difference["results"]:
            change = f"{row['b'] - row['a']:+.3f}"
            table.add_row(str(row["round"]), row["measure"], _shown(row["a"]), _shown(row["b"]), change)
        console.print(table)
    else:
        console.print("No round has been reported by both.")
    for row in difference["clusters"]:
        console.print(
            f"\nClusters of {row['source']}, round {row['round']}: NMI {_shown(row['nmi'])} and AMI "
            f"{_shown(row['ami'])} between the two runs, over {row['clips']} clips",
            highlight=False,
            soft_wrap=True,
        )


def _console() -> Console:
    """Return a console as wide as the terminal; where there is none, as wide as the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
