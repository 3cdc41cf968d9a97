"""The state of every node of a run."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.command import command
from shards.corpus.generation import earlier_generations
from shards.errors import ConfigError, StageError
from shards.store.lock import Builder, builder_of
from shards.store.manifest import read_manifest
from xdc_core.config.stopping import too_late
from xdc_core.data.selection import count_left_out
from xdc_core.documents.report import read_report
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.rounds import as_stopped, stop_line
from xdc_core.graph.stages import all_nodes, asked_nodes, stage_of
from xdc_core.graph.state import node_state
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

# A cell shows the first of these states that one of its nodes has.
MARKS = {"stale": "yellow", "partial": "cyan", "missing": "dim", "cleaned": "blue", "fresh": "green"}
REASONS = 12


def read_status(root: Path) -> list[dict[str, Any]]:
    """Return a row per node: stage, modality, round, state, why, path, rows, made, seconds, in_progress.

    `made` are the rows in words, such as `48 clips`. `in_progress` is None, or the process that builds the node now:
    pid, host, since (all None if unknown), and `certain`, false if it is on another machine and may be dead. Nodes
    that are made only when a command asks for them have a row while they are in progress; `asked` marks them, and no
    run has them to do.

    If thresholds of `select` are set, the row of the corpus also has `left_out`: how many of its `clips` to learn from
    each leaves out, and all `together`; or the `problem` that prevents counting. If the corpus was appended to, its row
    has `generations` (how many it had before) and `masked` (clips), and that of a node that read an earlier one has
    `kept_clips`, how many clips this one had.
    """
    opened = open_run(root)
    as_set = Fingerprints(opened)
    run = as_stopped(opened, as_set)
    fingerprints = as_set.after_stop(run)
    rows: list[dict[str, Any]] = []
    planned = list(all_nodes(run.config))
    asked = [node for number in range(run.config.last_round + 1) for node in asked_nodes(run.config, number)]
    building = {node: builder_of(run.directory(node)) for node in dict.fromkeys((*planned, *asked))}
    for node in (*planned, *(node for node in building if building[node] and node not in planned)):
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
                "made": stage_of(node).amount(manifest.rows, manifest.summary) if manifest else None,
                "seconds": manifest.seconds if manifest else None,
                "path": str(run.directory(node)),
                "in_progress": _process(building[node]),
                "asked": node not in planned,
            }
        )
        if node in fingerprints.kept:
            rows[-1]["kept_clips"] = fingerprints.kept[node].clips
        if node == SHARD and manifest and (earlier := earlier_generations(manifest)):
            rows[-1] |= {"generations": len(earlier), "masked": manifest.summary.get("masked", 0)}
        if node == SHARD and manifest and run.config.select.thresholds:
            rows[-1]["left_out"] = _left_out(run)
    return rows


def _process(builder: Builder | None) -> dict[str, Any] | None:
    if builder is None:
        return None
    holder = builder.holder
    known = {"pid": holder.pid, "host": holder.host, "since": holder.started} if holder else {}
    return {"pid": None, "host": None, "since": None} | known | {"certain": builder.certain}


def _in_progress(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line per node that a process builds now."""
    for row in rows:
        if process := row["in_progress"]:
            node = Node(row["stage"], row["modality"], row["round"])
            who = f"pid {process['pid']} on {process['host']}, since {process['since']}"
            doubt = "" if process["certain"] else "; it may be dead, and cannot be checked from this machine"
            yield f"in progress: {node}, {who if process['pid'] else 'by another process'}{doubt}"


def _left_out(run: Run) -> dict[str, Any]:
    try:
        found = count_left_out(run.corpus, run.config.corpus.learn_splits, run.config.select)
    except (ConfigError, StageError) as error:
        return {"problem": str(error)}
    return {**found.by_threshold, "together": found.together, "clips": found.clips}


def print_status(root: Path, rows: list[dict[str, Any]], every_node: bool = False) -> None:
    """Print a row per round with a column per stage, why nodes are not fresh, and what is wrong in the newest round.

    With `every_node` print a row per node, with its directory.
    """
    from rich.console import Console

    console, everything = Console(), rows
    rows = [row for row in everything if not row["asked"]]
    if every_node:
        console.print(_nodes(everything))
    else:
        console.print(_setup(rows))
        console.print(_rounds(rows))
        for line in (*_growth(rows), *_selection(rows)):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
        shown = [row for row in rows if row["state"] in ("stale", "partial") or row["why"]]
        unfinished = [row for row in shown if row["state"] != "cleaned"]
        for row in unfinished[:REASONS]:
            console.print(f"{_path(row)} is {_state(row)}", highlight=False, soft_wrap=True, markup=False)
        if unfinished[REASONS:]:
            more = f"and {len(unfinished) - REASONS} more: {command('xdc', 'status', root, '--nodes')}"
            console.print(more, highlight=False, soft_wrap=True, markup=False)
        for line in _problems(rows):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
    for line in _in_progress(everything):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    opened = open_run(root)
    run = as_stopped(opened, Fingerprints(opened, compare=False))
    for line in filter(None, (stop_line(run), too_late(run.config.stop, opened.config.rounds), _last_training(run))):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    counts = Counter(row["state"] for row in rows)
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()), highlight=False)
    if counts.keys() - {"fresh", "cleaned"}:
        left = f"To run the rest: {command('xdc', 'run', root)}"
        console.print(left, highlight=False, soft_wrap=True, markup=False)


def _problems(rows: list[dict[str, Any]]) -> list[str]:
    """Return the diagnostics of the newest round with an up-to-date report, except those that are good."""
    reported = [row for row in rows if row["stage"] == "report" and row["state"] == "fresh"]
    if not reported:
        return []
    try:
        report = read_report(Path(reported[-1]["path"]))
    except StageError as error:
        return [str(error)]
    return [f"round {report.round}, {level}: {text}" for level, text in report.diagnostics if level != "good"]


def _last_training(run: Run) -> str:
    """Return a line on the training after the last of `rounds`, if there is one."""
    number = run.config.rounds
    if run.config.last_round == number:
        return ""
    return f"Round {number} trains from the first encoders (last_training); round {number + 1} has the final encoders."


def _setup(rows: list[dict[str, Any]]) -> "Text":
    """Return a line on the nodes that are built once per run."""
    from rich.text import Text

    line = Text()
    for stage, nodes in _by_stage([row for row in rows if row["round"] is None]).items():
        clips = sum(node["rows"] or 0 for node in nodes) if stage in ("shard", "data") else 0
        line.append(f"{'   ' if line else ''}{stage} ").append(_cell(nodes)).append(f", {clips} clips" if clips else "")
    return line


def _growth(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield lines on the generations of the corpus, and on the rounds that keep an earlier one."""
    for corpus in (row for row in rows if row.get("generations")):
        times = "once" if corpus["generations"] == 1 else f"{corpus['generations']} times"
        yield f"the corpus was appended to {times}; masked clips of removed or changed sources: {corpus['masked']}"
    kept = {row["round"]: row["kept_clips"] for row in rows if "kept_clips" in row and row["round"] is not None}
    if kept:
        clips = ", ".join(f"{number} ({count})" for number, count in kept.items())
        yield f"finished rounds keep the clips that the corpus had then: {clips}"


def _selection(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line on the clips that the thresholds leave out."""
    for counts in (row["left_out"] for row in rows if "left_out" in row):
        if "problem" in counts:
            yield counts["problem"]
            continue
        each = ", ".join(f"{name} {count}" for name, count in counts.items() if name not in ("together", "clips"))
        left = counts["clips"] - counts["together"]
        yield f"select leaves out {counts['together']} of {counts['clips']} clips ({each}): {left} to learn from"


def _rounds(rows: list[dict[str, Any]]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("round", justify="right")
    in_rounds = [row for row in rows if row["round"] is not None]
    stages = _by_stage(in_rounds)
    for stage in stages:
        table.add_column(stage, justify="right")
    by_round = defaultdict(list)
    for row in in_rounds:
        by_round[row["round"]].append(row)
    for number, in_round in by_round.items():
        nodes = _by_stage(in_round)
        table.add_row(str(number), *(_cell(nodes[stage]) if stage in nodes else "" for stage in stages))
    return table


def _by_stage(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    by_stage = defaultdict(list)
    for row in rows:
        by_stage[row["stage"]].append(row)
    return dict(by_stage)


def _cell(nodes: list[dict[str, Any]]) -> "Text":
    """Return the seconds that the nodes took or, if not all are fresh, how many have which state."""
    from rich.text import Text

    states = Counter(node["state"] for node in nodes)
    state = next(state for state in MARKS if state in states)
    if state == "fresh":
        return Text(f"{sum(node['seconds'] for node in nodes):.1f} s", style=MARKS[state])
    some = f"{states[state]} of {len(nodes)} " if states[state] < len(nodes) else ""
    return Text(f"{some}{state}" if some or state != "missing" else "-", style=MARKS[state])


def _nodes(rows: list[dict[str, Any]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, justify in (("round", "right"), ("stage", "left"), ("state", "left"), ("made", "right"), ("s", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("where, and why", overflow="fold")
    for row in rows:
        note = (
            f"{_path(row)}{': ' + row['why'] if row['why'] else ''}" if row["state"] != "missing" or row["why"] else ""
        )
        table.add_row(
            "" if row["round"] is None else str(row["round"]),
            f"{row['stage']}.{row['modality']}" if row["modality"] else row["stage"],
            Text(row["state"], style=MARKS[row["state"]]),
            row["made"] or "",
            "" if row["seconds"] is None else f"{row['seconds']:.1f}",
            Text(note),
        )
    return table


def _path(row: dict[str, Any]) -> Path:
    where = Path(row["path"])
    return where.relative_to(Path.cwd()) if where.is_relative_to(Path.cwd()) else where


def _state(row: dict[str, Any]) -> str:
    return f"{row['state']}: {row['why']}" if row["why"] else row["state"]
