"""`xdc duplicates`: clips of a run that repeat others."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, RoundOption, RunArgument, errors_as_exit_codes


def duplicates(
    run: RunArgument,
    modality: Annotated[str | None, typer.Option(help="compare only this one  [default: all together]")] = None,
    round: RoundOption = None,
    threshold: Annotated[
        float | None, typer.Option(help="similarity of duplicates, up to 1  [default: from the histogram]")
    ] = None,
    same_source: Annotated[
        bool, typer.Option("--same-source", help="also compare clips of one file, if they do not overlap")
    ] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="write a page of pairs to look at")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="for keep.parquet and others  [default: RUN/duplicates]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find near-duplicates among a run's clips, and write which to keep; leaks between splits are named."""
    with errors_as_exit_codes():
        from flows.cli.using.near_duplicates import duplicates_of, print_duplicates

        found = duplicates_of(run, modality, round, threshold, same_source, html, out or run / "duplicates")
        if as_json:
            print(json.dumps(found, indent=2))
        else:
            print_duplicates(found)
