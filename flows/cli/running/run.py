"""Flows and stages started from the command line, in this process."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import typer

from flows.cli.inspecting.summary import read_report
from flows.cli.running.clean import print_made_again
from flows.executors.preflight import check_run
from flows.runners.do_node import do_node
from flows.runners.forked import CHILDREN, Children
from flows.server.prefect_defaults import set_defaults
from flows.server.temporary import prefect_server
from flows.terminal import done_in_words, show_progress
from shards.errors import Busy, ConfigError, XdcError
from xdc_core.config.stopping import too_late
from xdc_core.documents.report import Report
from xdc_core.graph.rounds import as_stopped, check_round, next_round
from xdc_core.graph.run_stage import all_fresh
from xdc_core.graph.stages import all_nodes, check_node, round_nodes, setup_nodes
from xdc_core.runs.corpora import lost_corpus
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


def run_flow(run: Run, whole: bool, number: int | None) -> Report:
    """Run the flow `xdc` (whole) or `xdc-round`, with Prefect's server if one is set, else a temporary one.

    If everything is fresh, Prefect is not started. Return the content of the last report.json.

    Raises:
        typer.Exit: stages failed (the reasons have been printed); the code is that of `exit_code`.
        ConfigError: the corpus and its videos are not where the configuration says, or its executor cannot be used.
        XdcError: Prefect's server does not answer.
    """
    root, opened = run.root, run
    run = as_stopped(opened)
    if whole:
        wanted = list(all_nodes(run.config))
    else:
        number = next_round(run) if number is None else check_round(run, number)
        wanted = [*setup_nodes(run.config), *round_nodes(run.config, number)]
    if warning := too_late(opened.config.stop, opened.config.rounds):
        print(f"warning: {warning}", file=sys.stderr)
    if lost := lost_corpus(run):
        raise ConfigError(lost)
    if all_fresh(run, wanted):
        print(f"Everything is fresh: {len(wanted)} stages.", file=sys.stderr)
    else:
        check_run(run)
        print_made_again(run, wanted)
        set_defaults(quiet=True)
        # SIGTERM ends the children and the temporary server as Ctrl-C does.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        CHILDREN.warm_up()  # Their imports run while Prefect starts.
        try:
            with show_progress() as listener:
                print("Starting Prefect (some seconds; up to a minute on a slow machine) ...", file=sys.stderr)
                with prefect_server():
                    if whole:
                        from flows.orchestration.xdc import xdc

                        state = xdc(str(root), return_state=True)
                    else:
                        from flows.orchestration.xdc_round import xdc_round

                        state = xdc_round(str(root), number, return_state=True)
        finally:
            CHILDREN.close()
        if not state.is_completed():
            print(f"Not finished: {state.message}", file=sys.stderr)
            print(
                f"Finished work is kept. Correct what failed (logs: {root}/logs), then run the same command again.",
                file=sys.stderr,
            )
            raise typer.Exit(exit_code(listener.errors))
        if listener.reused:
            print(f"{listener.reused} stages were fresh and reused.", file=sys.stderr)
    return read_report(as_stopped(opened), None if whole else number)


def exit_code(errors: Sequence[XdcError]) -> int:
    """Return the exit code of a command that failed with these errors.

    3: in all cases another process is building the same directory; 2: all are errors of the configuration; else 1.
    """
    if errors and all(isinstance(error, Busy) for error in errors):
        return 3
    if errors and all(isinstance(error, ConfigError) for error in errors):
        return 2
    return 1


def run_one(run: Run, node: Node, force: bool, show: bool) -> dict[str, Any]:
    """Run one stage in a child process, without Prefect. Return its record as JSON values.

    Raises:
        ConfigError: the run has no such node, or its executor cannot be used.
        StageError, ConfigError, Busy: see `do_node`.
    """
    run = as_stopped(run)
    check_node(run, node)
    with Children() as children, show_progress(results=False) as listener:
        record = do_node(run, node, children, [listener], force=force)
    if show:
        how = "fresh, nothing to do" if record.reused else done_in_words(record)
        print(f"{node}: {how}. See {record.path}")
    return asdict(record)
