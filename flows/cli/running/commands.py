"""The commands that make something. Each imports what it needs when it runs: `xdc --help` answers at once."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, RoundOption, RunArgument, SetOption, errors_as_exit_codes


def init(
    run: RunArgument,
    videos: Annotated[Path | None, typer.Option(help="folder of videos, or a CSV or Parquet manifest")] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="tiny (laptops), digits, speech, or for GPUs paper-kinetics, paper-audioset, paper-final, "
            "paper-supervised, deepcluster-recipe"
        ),
    ] = "tiny",
    corpus: Annotated[Path | None, typer.Option(help="directory of the clips  [default: corpora/NAME OF RUN]")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="what each modality learns: sdc (its own clusters), mdc (its own and the other's, with two heads), "
            "cdc (the clusters of the joined features), xdc (the other's clusters), or the baseline supervised (the "
            "labels of the corpus)  [default: the preset's, else xdc]"
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(help="rounds that train; one more without training follows  [default: the preset's]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="seed of every random draw  [default: 0]")] = None,
    modalities: Annotated[
        str | None, typer.Option(help="modalities to learn, separated by commas  [default: video,audio]")
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[MODALITY=]FOLDER",
            help="instead of videos: features that somebody else computed, a folder of Parquet files (of video, or of "
            "the named modality) with the columns key and feature; nothing is trained",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--init",
            metavar="[MODALITY=]FILE",
            help="start an encoder (of video, or of the named modality) from these weights instead of random ones",
        ),
    ] = None,
    audio_weights: Annotated[
        Path | None, typer.Option("--init-audio", metavar="FILE", help="the same as --init audio=FILE")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="any setting, such as train.lr=0.01; may be repeated"),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="keep an existing run unchanged")] = False,
) -> None:
    """Create a run: write its configuration, RUN/xdc.yaml, with an explanation of every setting."""
    with errors_as_exit_codes():
        from flows.cli.running.new_run import files_by_modality, make_run
        from shards.command import command
        from xdc_core.runs.corpora import lost_corpus
        from xdc_core.runs.run import open_run

        names = modalities.split(",") if modalities else None
        choices = {"method": method, "modalities": names, "rounds": rounds, "seed": seed}
        made = make_run(
            run,
            videos,
            preset,
            corpus,
            {name: value for name, value in choices.items() if value is not None},
            files_by_modality(weights or []) | ({"audio": audio_weights} if audio_weights else {}),
            keep,
            files_by_modality(features or []),
            settings or [],
        )
        print(f"{'wrote' if made else 'kept'} {run}/xdc.yaml")
        if made:
            lacking = lost_corpus(open_run(run))
            first = "Check it" if lacking is None else "It needs corpus.videos, or corpus.path of clips that there are"
            print(f"{first}, then: {command('xdc', 'run', run)}")


def digits(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder to create")],
    clips: Annotated[int, typer.Option(help="clips to learn from")] = 3000,
    validation_clips: Annotated[int, typer.Option(help="clips of the split `validation`")] = 0,
    test_clips: Annotated[int, typer.Option(help="clips of the split `test`")] = 0,
    seed: Annotated[int, typer.Option(help="seed of the clips")] = 0,
    speech: Annotated[
        Path | None,
        typer.Option(
            help="folder of recordings in the layout of the Free Spoken Digit Dataset  [default: synthesised voices]"
        ),
    ] = None,
    nuisance: Annotated[float, typer.Option(help="0 to 1: how strong the backgrounds are")] = 0.15,
    mismatched: Annotated[float, typer.Option(help="0 to 1: share of clips with the sound of another digit")] = 0.0,
    workers: Annotated[int | None, typer.Option(help="processes  [default: one per core]")] = None,
) -> None:
    """Create audio-visual digits: videos whose picture and sound have only the digit in common."""
    with errors_as_exit_codes():
        from pydantic import ValidationError

        from flows.terminal import counter
        from shards.digits.corpus import write_digits
        from shards.digits.settings import DigitsSettings
        from shards.errors import ConfigError

        try:
            settings = DigitsSettings(
                clips=clips,
                validation_clips=validation_clips,
                test_clips=test_clips,
                seed=seed,
                speech=speech,
                nuisance=nuisance,
                mismatched=mismatched,
                workers=workers,
            )
        except ValidationError as error:
            problems = (f"--{problem['loc'][0]}: {problem['msg']}".replace("_", "-") for problem in error.errors())
            raise ConfigError("; ".join(problems)) from None
        with counter("digits") as progress:
            manifest = write_digits(out, settings, progress)
        print(f"{sum(settings.clips_by_split.values())} videos, listed in {manifest}")


def run(run: RunArgument, settings: SetOption = None, as_json: JsonOption = False) -> None:
    """Run all rounds of a run, or continue them."""
    do_rounds(run, whole=True, number=None, settings=settings, as_json=as_json)


def one_round(
    run: RunArgument, round: RoundOption = None, settings: SetOption = None, as_json: JsonOption = False
) -> None:
    """Run one round  [default: the first that is not finished]."""
    do_rounds(run, whole=False, number=round, settings=settings, as_json=as_json)


def do_rounds(run: Path, whole: bool, number: int | None, settings: list[str] | None, as_json: bool) -> None:
    """Write settings to the configuration, run rounds of a run, then print the results."""
    with errors_as_exit_codes():
        if settings:
            from flows.cli.running.change import change_run

            changed = change_run(run, settings)
            print(f"{run}/xdc.yaml: {'; '.join(changed) or 'has these settings already'}", file=sys.stderr)
        from flows.cli.inspecting.summary import print_summary
        from flows.cli.running.run import run_flow
        from xdc_core.graph.rounds import as_stopped
        from xdc_core.runs.run import open_run

        opened = open_run(run)
        report = run_flow(opened, whole, number)
        if as_json:
            print(json.dumps(report.content(), indent=2))
        else:
            print_summary(as_stopped(opened), report)


def stage(
    name: Annotated[
        str,
        typer.Argument(
            metavar="STAGE",
            help="shard, init, extract, cluster, label, teachers, stop, train, report, data, embed, eval, maps, search",
        ),
    ],
    run: RunArgument,
    modality: Annotated[
        str | None,
        typer.Option(
            help="video, audio or another modality; for cluster and label also joint, for label also truth; for data, "
            "embed and eval the name of the data set or evaluation in xdc.yaml or evaluate.yaml; for search such as "
            "video or video-by-audio"
        ),
    ] = None,
    round: Annotated[
        int | None,
        typer.Option(
            "--round", help="number of the round; the first is 0; needed by all stages but shard, data and init"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="rebuild it even if it is fresh")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run one stage of a round, without Prefect."""
    with errors_as_exit_codes():
        from flows.cli.running.run import run_one
        from xdc_core.runs.node import Node
        from xdc_core.runs.run import open_run

        record = run_one(open_run(run), Node(name, modality, round), force, show=not as_json)
        if as_json:
            print(json.dumps(record))


def recut(
    run: RunArgument,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="a source's path as in sources.parquet; may be repeated  [default: those that xdc verify lists]"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Cut again only the shards that contain clips of sources damaged by an earlier version."""
    with errors_as_exit_codes():
        from flows.cli.running.recut import recut_run

        records = recut_run(run, source, show=not as_json)
        if as_json:
            print(json.dumps(records))


def index(run: RunArgument, as_json: JsonOption = False) -> None:
    """Make a corpus of an earlier version faster to read. No clip changes.

    Notes where the key frames of each clip are, so that only the needed part of a clip is decoded.
    """
    with errors_as_exit_codes():
        from flows.cli.running.index import index_run

        records = index_run(run, show=not as_json)
        if as_json:
            print(json.dumps(records))


def clean(
    run: RunArgument,
    keep_rounds: Annotated[
        int, typer.Option("--keep-rounds", min=1, help="number of newest rounds whose features stay")
    ] = 1,
    stale: Annotated[
        bool,
        typer.Option(
            "--stale",
            help="also remove what other settings have left: partial directories, earlier generations, and features, "
            "clusters and labels of nodes that are not in xdc.yaml",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would be removed")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove features of earlier rounds that no node needs, and show what takes space.

    Asks nothing: see first with --dry-run. Results always stay.
    """
    with errors_as_exit_codes():
        from dataclasses import asdict

        from flows.cli.running.clean import print_cleaning
        from xdc_core.cleaning.clean import clean as clean_run
        from xdc_core.runs.run import open_run

        cleaning = clean_run(open_run(run), keep_rounds, stale, dry_run)
        if as_json:
            print(json.dumps(asdict(cleaning) | {"freed": cleaning.freed, "dry_run": dry_run}, indent=2))
        else:
            print_cleaning(run, cleaning, dry_run)


def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="runs' directories")],
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="name of an evaluation in xdc.yaml or evaluate.yaml; may be repeated  [default: all of them, or with "
            "--protocol the added one]"
        ),
    ] = None,
    round: Annotated[
        int | None,
        typer.Option(
            "--round",
            help="evaluate the encoders at the start of this round; 0: untrained (scratch)  [default: the newest round "
            "whose encoders are up to date]",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="add an evaluation by this protocol: fc, all, svm, knn, retrieval or clusters; it is noted in "
            "RUN/evaluate.yaml"
        ),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(help="modality of the added evaluation: video, audio, or another; needed with --data"),
    ] = None,
    data: Annotated[str | None, typer.Option(help="layout of a data set, such as esc50  [default: the corpus]")] = None,
    root: Annotated[Path | None, typer.Option(help="folder of that data set; needed with --data")] = None,
    label: Annotated[str | None, typer.Option(help="label column of the corpus  [default: label]")] = None,
    views: Annotated[int | None, typer.Option(help="for a data set: views per recording  [default: 10]")] = None,
    frames: Annotated[
        int | None,
        typer.Option(help="for a data set: frames per view (for sound, their duration)  [default: as in training]"),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="for the protocol all: gdt, avid, vmz or sound; see docs/evaluation.md  [default: none of them, the "
            "settings of XDC]"
        ),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            help="share of the training recordings that is held out for choices; 0: none, as in the paper  "
            "[default: 0.2]"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="run it again even if it is fresh")] = False,
    table: Annotated[
        bool, typer.Option("--table", help="only print existing results, beside the paper's numbers")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate encoders: probes, fine-tuning, retrieval, clusters; on the corpus or other data sets."""
    with errors_as_exit_codes():
        from flows.cli.running import evaluate as evaluations
        from xdc_core.inspection.results import markdown_table

        if table:
            print(evaluations.table(runs), end="")
            return
        names = list(only or [])
        if protocol is None:
            evaluations.refuse_unused(
                {
                    "--modality": modality,
                    "--data": data,
                    "--root": root,
                    "--label": label,
                    "--views": views,
                    "--frames": frames,
                    "--recipe": recipe,
                    "--held-out": held_out,
                }
            )
        else:
            names += {
                evaluations.ask(
                    run, data, root, protocol, modality, label or "label", recipe, held_out, views=views, frames=frames
                )
                for run in runs
            }
        results = evaluations.evaluate(runs, names, round, force)
        if as_json:
            print(json.dumps([result.content() for result in results], indent=2))
            return
        print(markdown_table(results, paper=False))
        for result in results:
            print(result.path)
            for warning in result.warnings:
                print(f"  warning: {warning}")
