"""`xdc search`: the nearest clips of a clip or a media file."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, RoundOption, RunArgument, errors_as_exit_codes


def search(
    run: RunArgument,
    query: Annotated[
        str | None, typer.Argument(metavar="[QUERY]", help="the key of a clip of the run, or a media file")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="what of the query is compared: picture, sound, or another modality  [default: picture]"),
    ] = None,
    within: Annotated[
        str | None, typer.Option("--in", help="what of the clips is compared: picture, sound ...  [default: as --by]")
    ] = None,
    among: Annotated[
        Path | None, typer.Option(metavar="DIR", help="search the clips of this directory of `xdc embed` instead")
    ] = None,
    count: Annotated[int, typer.Option("-k", min=1, help="number of clips")] = 10,
    split: Annotated[str | None, typer.Option(help="search only the clips of this split")] = None,
    at: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="of a long file, where to take the clip  [default: middle]")
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(metavar="SPLIT", help="instead of QUERY: search for every clip of a split, count equal labels"),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="also write a page to look at and listen to")
    ] = None,
    round: RoundOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the clips nearest to a clip or a media file: by the same modality, or across (sound for a picture)."""
    with errors_as_exit_codes():
        from flows.cli.using.searching import Asked, measure_search, print_measured, print_results, search_clips

        asked = Asked(run, by, within, among, round, count, split)
        if measure is not None:
            measured = measure_search(asked, query, measure)
            print(json.dumps(measured, indent=2)) if as_json else print_measured(measured)
            return
        results = search_clips(asked, query, at, html)
        print(json.dumps(results, indent=2)) if as_json else print_results(results, html)
