"""`xdc curate`: a balanced subset of a run's clips, as a manifest."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, RoundOption, RunArgument, errors_as_exit_codes


def curate(
    run: RunArgument,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="the manifest to write, a .csv")],
    per_cluster: Annotated[
        int | None, typer.Option(min=1, help="keep at most so many clips per cluster  [default: all]")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="clusters of: video, audio, joint  [default: joint, or the first modality]")
    ] = None,
    nearest: Annotated[
        bool, typer.Option("--nearest", help="of a cluster the clips nearest to its centroid (default)")
    ] = False,
    farthest: Annotated[bool, typer.Option("--farthest", help="the farthest ones")] = False,
    random: Annotated[bool, typer.Option("--random", help="random ones, by --seed")] = False,
    agree: Annotated[bool, typer.Option("--agree", help="only clips whose clusters by all modalities match")] = False,
    where: Annotated[
        str | None, typer.Option(help="condition on columns of the index: 'motion > 2 and level_db >= -40'")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="LIST", help="keep.parquet of `xdc duplicates`: leave out what it does not keep"),
    ] = None,
    round: RoundOption = None,
    seed: Annotated[int | None, typer.Option(help="for --random  [default: the run's]")] = None,
    learn_only: Annotated[
        bool, typer.Option("--learn-only", help="leave out clips of splits that the run does not learn from")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a balanced subset of a run's clips as a manifest, which `xdc init --videos` takes: curate, train again."""
    with errors_as_exit_codes():
        from flows.cli.using.subsets import Rules, print_subset, write_subset

        orders = {"nearest": nearest, "farthest": farthest, "random": random}
        rules = Rules(
            per_cluster, by, [name for name, given in orders.items() if given], agree, where, keep, seed, learn_only
        )
        written = write_subset(run, round, rules, to)
        if as_json:
            print(json.dumps(written, indent=2))
        else:
            print_subset(written)
