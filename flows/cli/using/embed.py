"""`xdc embed`: features of any videos by the encoders of a run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, RoundOption, RunArgument, errors_as_exit_codes


def embed(
    run: RunArgument,
    videos: Annotated[Path, typer.Argument(metavar="VIDEOS", help="folder of videos, or a CSV or Parquet manifest")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="directory of clips and features, itself a run")],
    round: RoundOption = None,
    modality: Annotated[str | None, typer.Option(help="only this one  [default: all of the run]")] = None,
    layout: Annotated[str | None, typer.Option(help="VIDEOS is a data set in this layout, such as ucf101")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute features of any videos by a run's encoders; --round: those at its start  [default: the newest]."""
    with errors_as_exit_codes():
        from flows.cli.using.new_clips import embed_videos, print_embedded

        embedded = embed_videos(run, videos, out, round, modality, layout)
        if as_json:
            print(json.dumps(embedded.content(), indent=2))
        else:
            print_embedded(embedded)
