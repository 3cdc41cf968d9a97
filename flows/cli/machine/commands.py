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
            help="folders in which to test locks, in addition to this one, runs and corpora; for a run also its corpus"
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
        typer.Option(metavar="ID", help="with --repair: a flow run known to be dead, on whichever machine it ran"),
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
