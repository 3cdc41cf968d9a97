"""The commands that use what a run has learnt. Each imports what it needs when it runs."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.options import EncodersOption, JsonOption, RunArgument, RunOrExportArgument, errors_as_exit_codes


class Projection(StrEnum):
    """How features are laid out in a plane."""

    pca = "pca"
    umap = "umap"


def export(
    run: RunArgument,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="the folder to write: new, or empty")],
    number: EncodersOption = None,
    modality: Annotated[
        list[str] | None, typer.Option("--modality", metavar="M", help="only this modality's encoder; can be repeated")
    ] = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="also model.onnx, checked against PyTorch; needs the extra onnx")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="REPO", help="then upload DIR to this repository of the Hugging Face Hub"),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write a run's encoders into a folder that others can use: weights, settings, clusters and a model card.

    DIR/<modality>/ has model.safetensors, config.json and README.md in the layout of the Hugging Face Hub, and the
    clusters of this encoder's features. See docs/export.md.
    """
    with errors_as_exit_codes():
        from xdc_core.exports.write import export as write
        from xdc_core.graph.rounds import as_stopped
        from xdc_core.runs.run import open_run

        if onnx:
            from xdc_core.exports.onnx import check_installed

            check_installed()
        if push:
            from xdc_core.exports.hub import push as upload
        made = write(as_stopped(open_run(run)), to, number, modality or [], onnx)
        where = upload(to, push) if push else None
        if json_:
            values = {"path": str(to), "round": made.round, "folders": list(made.folders), "reused": made.reused}
            print(json.dumps(values | {"without_clusters": dict(made.without), "pushed": where}))
            return
        print(
            f"{to}: {', '.join(made.folders)} of round {made.round}{' (it was there already)' if made.reused else ''}"
        )
        for name, why in made.without.items():
            print(f"{name} has no clusters: {why}.")
        if where:
            print(f"pushed: {where}")
        elif not made.reused:
            print(f"Before you hand it on, fill in the licence at the top of each README.md in {to}.")


def embed(
    run: RunOrExportArgument,
    videos: Annotated[Path, typer.Argument(metavar="VIDEOS", help="folder of videos, or a CSV or Parquet manifest")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="directory of clips and features, itself a run")],
    round: EncodersOption = None,
    modality: Annotated[str | None, typer.Option(help="only this one  [default: all of the run]")] = None,
    layout: Annotated[str | None, typer.Option(help="VIDEOS is a data set in this layout, such as ucf101")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute features of any videos by a run's encoders."""
    with errors_as_exit_codes():
        from flows.cli.using.new_clips import embed_videos, print_embedded

        embedded = embed_videos(run, videos, out, round, modality, layout)
        if as_json:
            print(json.dumps(embedded.content(), indent=2))
        else:
            print_embedded(embedded)


def assign(
    run: RunOrExportArgument,
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
    round: EncodersOption = None,
    modality: Annotated[
        str | None,
        typer.Option(
            help="only clusters of this modality; for a folder of Parquet files: the modality of their features"
        ),
    ] = None,
    layout: Annotated[str | None, typer.Option(help="VIDEOS is a data set in this layout, such as ucf101")] = None,
    as_json: JsonOption = False,
) -> None:
    """Assign new clips to a run's clusters: the nearest frozen centroid of each clip, and its distance."""
    with errors_as_exit_codes():
        from flows.cli.using.assignments import assign_clips, print_assigned

        assigned = assign_clips(run, media, out, round, modality, layout)
        if as_json:
            print(json.dumps([each.content() for each in assigned], indent=2))
        else:
            print_assigned(assigned)


def search(
    run: RunArgument,
    query: Annotated[
        str | None, typer.Argument(metavar="[QUERY]", help="the key of a clip of the run, or a media file")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="what of the query is compared: picture (or video), sound (or audio), or another modality's name  "
            "[default: as --in, or the run's first]"
        ),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(
            "--in",
            help="what of the clips is compared: picture (or video), sound (or audio), or another modality's name  "
            "[default: as --by]",
        ),
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
    round: EncodersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the clips nearest to a clip or a media file: by the same modality, or across (sound for a picture)."""
    with errors_as_exit_codes():
        from flows.cli.using.searching import Asked, measure_search, print_measured, print_results, search_clips

        asked = Asked(run, by, within, among, round, count, split)
        if measure is not None:
            measured = measure_search(asked, query, at, html, measure)
            print(json.dumps(measured, indent=2)) if as_json else print_measured(measured)
            return
        results = search_clips(asked, query, at, html)
        print(json.dumps(results, indent=2)) if as_json else print_results(results, html)


def duplicates(
    run: RunArgument,
    modality: Annotated[str | None, typer.Option(help="compare only this one  [default: all together]")] = None,
    round: EncodersOption = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="cosine similarity from which clips count as duplicates, up to 1  [default: chosen from the distances "
            "of all clips]"
        ),
    ] = None,
    same_source: Annotated[
        bool, typer.Option("--same-source", help="also compare clips of one file, if they do not overlap")
    ] = False,
    views: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="compare means over so many views of a clip, computed into the folder of --out; 30 find copies that "
            "begin a little later  [default: the run's features]",
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="write a page of pairs to look at")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="for keep.parquet and others  [default: RUN/duplicates]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find near-duplicates among a run's clips, and write which to keep; leaks between splits are named."""
    with errors_as_exit_codes():
        from flows.cli.using.near_duplicates import duplicates_of, print_duplicates

        found = duplicates_of(run, modality, round, threshold, same_source, html, out or run / "duplicates", views)
        if as_json:
            print(json.dumps(found, indent=2))
        else:
            print_duplicates(found)


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
    round: EncodersOption = None,
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


def map_run(
    run: RunArgument,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="the table, a .parquet  [default: RUN/map.parquet]")
    ] = None,
    round: EncodersOption = None,
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
