"""`xdc assign`: the nearest clusters of a run, for new clips."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, RoundOption, RunArgument, errors_as_exit_codes


def assign(
    run: RunArgument,
    media: Annotated[
        Path,
        typer.Argument(
            metavar="VIDEOS_OR_FEATURES",
            help="what xdc embed takes; or features: a directory of xdc embed, a run, or Parquet files",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="directory of the labels  [default: RUN/assigned/NAME]")
    ] = None,
    round: RoundOption = None,
    modality: Annotated[str | None, typer.Option(help="only clusters of this one; also that of Parquet files")] = None,
    layout: Annotated[str | None, typer.Option(help="VIDEOS is a data set in this layout, such as ucf101")] = None,
    as_json: JsonOption = False,
) -> None:
    """Assign new clips to a run's clusters: nearest frozen centroid and distance  [default: of the newest round]."""
    with errors_as_exit_codes():
        from flows.cli.using.assignments import assign_clips, print_assigned

        assigned = assign_clips(run, media, out, round, modality, layout)
        if as_json:
            print(json.dumps([each.content() for each in assigned], indent=2))
        else:
            print_assigned(assigned)
