"""The command that checks a machine. It imports what it needs when it runs: `xdc --help` answers at once."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, errors_as_exit_codes


def doctor(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN|FOLDER",
            help="a run: also check its executor, its bucket and the locks in it and its corpus; another folder: the "
            "locks there. Always checked: this folder, runs and corpora",
        ),
    ] = None,
    as_json: JsonOption = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="mark as Crashed the flow runs that Prefect considers running but whose process is gone"
        ),
    ] = False,
    dead: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="with --repair: a flow run known to be dead, on whichever machine it ran; may be repeated",
        ),
    ] = None,
) -> None:
    """Check what works on this machine: packages, codecs, GPU, faiss, locks, Prefect and its unfinished flow runs.

    Exits with 1 if xdc cannot run.
    """
    with errors_as_exit_codes():
        from flows.cli.machine.doctor import examine, print_findings
        from shards.errors import ConfigError

        if dead and not repair:
            raise ConfigError("--dead names a flow run to repair: use it with --repair.")
        findings = examine(folders or [], repair, dead or [])
        if as_json:
            print(json.dumps(findings, indent=2))
        else:
            print_findings(findings)
        if any(finding["state"] == "broken" for finding in findings):
            raise typer.Exit(1)


def deploy(
    pool: Annotated[str, typer.Option(help="work pool of type process; created if it does not exist")] = "local",
    name: Annotated[str, typer.Option(help="name of all deployments, as in xdc-round/NAME")] = "local",
    run: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="default run, relative to the workers' folder  [default: runs/demo]"),
    ] = None,
) -> None:
    """Register the flows and every stage at the Prefect server of PREFECT_API_URL. Safe to repeat, as after an update.

    Makes the work pool, the deployments, and the automation that marks lost flow runs as Crashed.
    """
    with errors_as_exit_codes():
        from flows.server.deployments import deploy as deploy_all
        from flows.server.deployments import next_commands

        count = deploy_all(pool, name, run)
        print(f"{count} deployments named {name}, for the work pool {pool}")
        worker, one_round = next_commands(pool, name)
        print(f"A worker, in the folder of the runs: {worker}")
        print(f"The next round of {run or 'runs/demo'}: {one_round}")
