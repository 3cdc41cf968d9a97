"""`xdc map`: a table of a run's clips for viewers of embeddings."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, RoundOption, RunArgument, errors_as_exit_codes


class Projection(StrEnum):
    """How features are laid out in a plane."""

    pca = "pca"
    umap = "umap"


def map_run(
    run: RunArgument,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="the table, a .parquet  [default: RUN/map.parquet]")
    ] = None,
    round: RoundOption = None,
    projection: Annotated[Projection, typer.Option(help="umap needs the extra umap")] = Projection.pca,
    pictures: Annotated[bool, typer.Option("--pictures", help="put a small JPEG of every clip into the table")] = False,
    media: Annotated[
        Path | None, typer.Option(metavar="DIR", help="write every clip's mp4 and flac there, with paths in the table")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write features, places in a plane, clusters and labels of all clips as one Parquet file, for viewers."""
    with errors_as_exit_codes():
        from flows.cli.using.maps import write_map

        written = write_map(run, round, projection.value, to or run / "map.parquet", pictures, media)
        if as_json:
            print(json.dumps(written, indent=2))
        else:
            print(f"{written['map']}: {written['clips']} clips of round {written['round']}, {written['projection']}")
            print(f"columns: {', '.join(written['columns'])}. How viewers open it: docs/curate.md")
