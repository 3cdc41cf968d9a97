"""The commands that show what there is. Each imports what it needs when it runs: `xdc --help` answers at once."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, RunArgument, errors_as_exit_codes


def status(
    run: RunArgument,
    as_json: JsonOption = False,
    check: Annotated[bool, typer.Option("--check", help="exit with 3 if there is work to do")] = False,
    nodes: Annotated[bool, typer.Option("--nodes", help="print a line per node, with its directory")] = False,
) -> None:
    """Show the state of every round: seconds if it is fresh, else cleaned, stale (and why), partial or missing."""
    with errors_as_exit_codes():
        from flows.cli.inspecting.status import print_status, read_status

        rows = read_status(run)
        if as_json:
            print(json.dumps(rows, indent=2))
        else:
            print_status(run, rows, every_node=nodes)
        if check and any(row["state"] not in ("fresh", "cleaned") and not row["asked"] for row in rows):
            raise typer.Exit(3)


def plan(
    run: RunArgument,
    videos: Annotated[
        int,
        typer.Option(min=2, metavar="N", help="how many sources to try (not a folder: that is corpus.videos)"),
    ] = 24,
    as_json: JsonOption = False,
    check: Annotated[
        bool, typer.Option("--check", help="exit with 3 if a disk does not hold the upper end of the range")
    ] = False,
) -> None:
    """Try a small sample, and tell what the run will take: hours, disk and memory by stage, with their range.

    The sample is cut into a temporary folder, which is removed; nothing is written into the run. See docs/plan.md.
    """
    with errors_as_exit_codes():
        import signal
        import sys

        from flows.cli.inspecting.plan import HOLDS, make_plan, print_plan
        from flows.cli.inspecting.plan import as_json as plan_as_json

        # SIGTERM and a closed terminal end the children and remove the folder as Ctrl-C does.
        ends = (signal.SIGTERM, signal.SIGHUP)
        before = [signal.signal(number, lambda number, _: sys.exit(128 + number)) for number in ends]
        try:
            made, disks = make_plan(run, videos)
        except KeyboardInterrupt:
            print("\nxdc: interrupted. The temporary folder of the sample is removed.", file=sys.stderr)
            raise typer.Exit(130) from None
        finally:
            for number, handler in zip(ends, before, strict=True):
                signal.signal(number, handler)
        if as_json:
            print(json.dumps(plan_as_json(made, disks), indent=2))
        else:
            print_plan(run, made, disks)
        if check and any(disk.verdict != HOLDS for disk in disks):
            raise typer.Exit(3)


def verify(run: RunArgument, as_json: JsonOption = False) -> None:
    """Check every stored byte and row of a run, and print how to repair damage. Exits with 1 if there is any."""
    with errors_as_exit_codes():
        from flows.cli.inspecting.verify import print_verification
        from flows.cli.inspecting.verify import verify as verify_all

        result = verify_all(run, show=not as_json)
        if as_json:
            print(json.dumps(result, indent=2))
        else:
            print_verification(run, result)
        if not result["sound"]:
            raise typer.Exit(1)


def report(
    run: RunArgument,
    round: Annotated[
        int | None,
        typer.Option(
            "--round", help="number of the round; the first is 0  [default: the newest round that has a report]"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the results by round, and where the reports are. --json prints a round's report.json."""
    with errors_as_exit_codes():
        from flows.cli.inspecting.summary import print_summary, read_report
        from xdc_core.graph.rounds import as_stopped
        from xdc_core.runs.run import open_run

        opened = as_stopped(open_run(run))
        content = read_report(opened, round)
        if as_json:
            print(json.dumps(content.content(), indent=2))
        else:
            print_summary(opened, content)


def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="searched with all its subfolders")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """List the runs in a folder, with their settings and results."""
    with errors_as_exit_codes():
        from flows.cli.inspecting.overview import print_runs
        from xdc_core.inspection.catalogue import describe_run, find_runs

        described = [describe_run(root) for root in find_runs(folder)]
        if as_json:
            print(json.dumps(described, indent=2))
        else:
            print_runs(folder, described)


def diff(
    a: Annotated[Path, typer.Argument(metavar="RUN_A", help="a run's directory")],
    b: Annotated[Path, typer.Argument(metavar="RUN_B", help="another's")],
    as_json: JsonOption = False,
) -> None:
    """Show the differences between two runs: settings, data, results, and the agreement of their clusters."""
    with errors_as_exit_codes():
        from flows.cli.inspecting.overview import print_difference
        from xdc_core.graph.rounds import as_stopped
        from xdc_core.inspection.difference import difference
        from xdc_core.runs.run import open_run

        differing = difference(as_stopped(open_run(a)), as_stopped(open_run(b)))
        if as_json:
            print(json.dumps(differing, indent=2))
        else:
            print_difference(differing)


def track(
    run: RunArgument,
    to: Annotated[str, typer.Option(help="tensorboard, wandb or mlflow")] = "tensorboard",
    every: Annotated[
        float | None, typer.Option(help="keep running and check for new values at this interval, in seconds")
    ] = None,
) -> None:
    """Send a run's new metrics to a tracker, including those of a training in progress."""
    with errors_as_exit_codes():
        import time

        from xdc_core.runs.run import open_run
        from xdc_core.tracking.publish import publish

        while True:
            sent = publish(open_run(run), to)
            print(f"{sent} points sent to {to}")
            if every is None:
                return
            time.sleep(every)
