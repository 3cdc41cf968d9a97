"""Flows and stages started from the command line, in this process."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from flows.prefect_defaults import set_defaults
from flows.summary import print_summary, read_report
from flows.terminal import shown
from shards.errors import StageError
from xdc_core.graph import Fingerprints, all_nodes, node_state, round_nodes, setup_nodes
from xdc_core.run import Node, Run, open_run


def _all_fresh(run: Run, nodes: list[Node]) -> bool:
    fingerprints = Fingerprints(run)
    return all(node_state(run, node, fingerprints)[0] == "fresh" for node in nodes)


def run_flow(root: Path, whole: bool, number: int | None) -> None:
    """Run the flow `xdc` (whole) or `xdc-round`, with Prefect's server if one is set, else a temporary one.

    Where everything is fresh Prefect is not even started.

    Raises:
        typer.Exit: with 1 where a stage failed (its reason has been shown).
    """
    run = open_run(root)
    if whole:
        wanted = list(all_nodes(run.config))
    else:
        from flows.rounds import check_round, next_round

        number = next_round(run) if number is None else check_round(run, number)
        wanted = [*setup_nodes(run.config), *round_nodes(run.config, number)]
    if _all_fresh(run, wanted):
        print(f"Everything is fresh: {len(wanted)} stages.")
    else:
        set_defaults(quiet=True)
        from flows.children import CHILDREN

        CHILDREN.warm_up()  # Their imports go on while Prefect starts.
        try:
            with shown() as listener:
                print(
                    "Starting Prefect (some seconds; up to a minute the first time on a slow machine) ...", flush=True
                )
                if whole:
                    from flows.xdc import xdc

                    state = xdc(str(root), return_state=True)
                else:
                    from flows.xdc_round import xdc_round

                    state = xdc_round(str(root), number, return_state=True)
        finally:
            CHILDREN.close()
        if not state.is_completed():
            print(f"Not finished: {state.message}")
            print(f"What is done is kept. Put right what failed (logs: {root}/logs), then run the same command again.")
            raise typer.Exit(1)
        if listener.reused:
            print(f"{listener.reused} stages were fresh and reused.")
    print_summary(root, read_report(root, None if whole else number))


def run_one(
    root: Path, stage: str, modality: str | None, number: int | None, force: bool, show: bool
) -> dict[str, Any]:
    """Do one stage in a child process, without Prefect. Returns its record."""
    from flows.children import CHILDREN
    from xdc_core.graph import check_node
    from xdc_core.stage import reuse

    run, node = open_run(root), Node(stage, modality, number)
    check_node(run, node)
    if force or (record := reuse(run, node)) is None:
        try:
            with shown() as listener:
                CHILDREN.run_stage(
                    run, node, force, lambda done, total, note="": listener.progress(node, done, total, note)
                )
        finally:
            CHILDREN.close()
        record = reuse(run, node)
        if record is None:
            raise StageError(f"{node} was done, but its directory does not check out.")
        if show:
            print(f"{node}: {record.rows} rows, {record.seconds:.1f} s. See {record.path}")
    elif show:
        print(f"{node}: fresh, nothing to do. See {record.path}")
    return asdict(record)
