"""The `xdc` command. Imports what a subcommand needs when it runs, so that --help answers at once.

Exit codes: 0 done; 1 a stage failed (what it had finished is kept); 2 wrong usage, configuration or input; 3 another
process builds the same (`stage`, `eval`), or there is work to do (`status --check`); 130 interrupted.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="xdc",
    help="Cross-Modal Deep Clustering: raw videos with sound go in, encoders of pictures and of sound come out.\n\n"
    "Start with: xdc init runs/first --videos FOLDER, then: xdc run runs/first",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="the run's directory (it holds xdc.yaml)")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]
RoundOption = Annotated[int | None, typer.Option("--round", help="number of the round; the first is 0")]


@contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Turn errors that a person can put right into a message and an exit code, without a traceback."""
    from shards.errors import Busy, ConfigError, XdcError

    try:
        yield
    except XdcError as error:
        print(f"xdc: {error}", file=sys.stderr)
        raise typer.Exit(3 if isinstance(error, Busy) else 2 if isinstance(error, ConfigError) else 1) from None
    except OSError as error:  # The machine's trouble: a full disk, a missing permission, too many open files.
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"xdc: cannot read or write: {error.strerror or error}{where}. Put this right, and run the same again.",
            file=sys.stderr,
        )
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("\nxdc: interrupted. What was finished is kept; the same command goes on from there.", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def init(
    run: RunArgument,
    videos: Annotated[Path | None, typer.Option(help="folder of videos, or a CSV or Parquet manifest")] = None,
    preset: Annotated[
        str, typer.Option(help="tiny (laptops), digits, or for GPUs paper-kinetics, paper-audioset, deepcluster-recipe")
    ] = "tiny",
    corpus: Annotated[Path | None, typer.Option(help="where the clips go  [default: corpora/NAME OF RUN]")] = None,
    method: Annotated[str | None, typer.Option(help="sdc, mdc, cdc, xdc, or the baseline supervised")] = None,
    rounds: Annotated[int | None, typer.Option(help="training rounds")] = None,
    seed: Annotated[int | None, typer.Option(help="every random draw comes from it")] = None,
    modalities: Annotated[str | None, typer.Option(help="what is learnt, with commas  [default: video,audio]")] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--init",
            metavar="[MODALITY=]FILE",
            help="start an encoder (of video, or of the modality named) from these weights, not from random ones",
        ),
    ] = None,
    audio_weights: Annotated[
        Path | None, typer.Option("--init-audio", metavar="FILE", help="the same as --init audio=FILE")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="leave a run that is there as it is")] = False,
) -> None:
    """Make a run: write its configuration, RUN/xdc.yaml, with every setting explained."""
    with errors_as_exit_codes():
        from flows.cli.running.new_run import make_run, weights_by_modality
        from shards.command import command

        names = modalities.split(",") if modalities else None
        choices = {"method": method, "modalities": names, "rounds": rounds, "seed": seed}
        made = make_run(
            run,
            videos,
            preset,
            corpus,
            {name: value for name, value in choices.items() if value is not None},
            weights_by_modality(weights or []) | ({"audio": audio_weights} if audio_weights else {}),
            keep,
        )
        print(f"{'wrote' if made else 'kept'} {run}/xdc.yaml")
        if made:
            print(f"Look at it, then: {command('xdc', 'run', run)}")


@app.command()
def digits(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder to make")],
    clips: Annotated[int, typer.Option(help="clips to learn from")] = 3000,
    validation_clips: Annotated[int, typer.Option(help="clips of the split `validation`")] = 0,
    test_clips: Annotated[int, typer.Option(help="clips of the split `test`")] = 0,
    seed: Annotated[int, typer.Option(help="another seed gives other clips")] = 0,
    speech: Annotated[Path | None, typer.Option(help="recordings in the Free Spoken Digit layout")] = None,
    nuisance: Annotated[float, typer.Option(help="0 to 1: how strong the backgrounds are")] = 0.15,
    mismatched: Annotated[float, typer.Option(help="0 to 1: share of clips with the sound of another digit")] = 0.0,
    workers: Annotated[int | None, typer.Option(help="processes  [default: one a core]")] = None,
) -> None:
    """Make audio-visual digits: videos whose picture and sound share nothing but the digit."""
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


@app.command()
def run(run: RunArgument, as_json: JsonOption = False) -> None:
    """Do all rounds of a run, or go on with them."""
    do_rounds(run, whole=True, number=None, as_json=as_json)


@app.command("round")
def one_round(run: RunArgument, round: RoundOption = None, as_json: JsonOption = False) -> None:
    """Do one round  [default: the first that is not finished]."""
    do_rounds(run, whole=False, number=round, as_json=as_json)


def do_rounds(run: Path, whole: bool, number: int | None, as_json: bool) -> None:
    """Do rounds of a run, then print what was learnt."""
    with errors_as_exit_codes():
        from flows.cli.inspecting.summary import print_summary
        from flows.cli.running.run import run_flow
        from xdc_core.runs.run import open_run

        opened = open_run(run)
        report = run_flow(opened, whole, number)
        if as_json:
            print(json.dumps(report.content(), indent=2))
        else:
            print_summary(opened, report)


@app.command()
def stage(
    name: Annotated[
        str,
        typer.Argument(metavar="STAGE", help="shard, init, extract, cluster, label, train, report, data, embed, eval"),
    ],
    run: RunArgument,
    modality: Annotated[
        str | None, typer.Option(help="video, audio, joint; or of data, embed and eval the name")
    ] = None,
    round: RoundOption = None,
    force: Annotated[bool, typer.Option("--force", help="rebuild it, even where it is fresh")] = False,
    as_json: JsonOption = False,
) -> None:
    """Do one stage of a round, without Prefect."""
    with errors_as_exit_codes():
        from flows.cli.running.run import run_one
        from xdc_core.runs.node import Node
        from xdc_core.runs.run import open_run

        record = run_one(open_run(run), Node(name, modality, round), force, show=not as_json)
        if as_json:
            print(json.dumps(record))


@app.command()
def status(
    run: RunArgument,
    as_json: JsonOption = False,
    check: Annotated[bool, typer.Option("--check", help="exit with 3 if anything is left to do")] = False,
    nodes: Annotated[bool, typer.Option("--nodes", help="a line for every node, with its directory")] = False,
) -> None:
    """Show the state of every round: seconds where it is fresh, else stale (and why), partial or missing."""
    with errors_as_exit_codes():
        from flows.cli.inspecting.status import print_status, read_status

        rows = read_status(run)
        if as_json:
            print(json.dumps(rows, indent=2))
        else:
            print_status(run, rows, every_node=nodes)
        if check and any(row["state"] != "fresh" for row in rows):
            raise typer.Exit(3)


@app.command()
def verify(run: RunArgument, as_json: JsonOption = False) -> None:
    """Check every stored byte and row of a run, and say how to repair what is damaged. Exits with 1 if something is."""
    with errors_as_exit_codes():
        from flows.cli.inspecting.verify import print_verification
        from flows.cli.inspecting.verify import verify as verify_all

        result = verify_all(run, show=not as_json)
        if as_json:
            print(json.dumps(result, indent=2))
        else:
            print_verification(run, result)
        if not result["sound"]:
            raise typer.Exit(1)


@app.command()
def recut(
    run: RunArgument,
    source: Annotated[
        list[str] | None, typer.Option(help="a source's path as in sources.parquet  [default: those xdc verify names]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Cut the shards again that hold clips of sources which an earlier version damaged, and no others."""
    with errors_as_exit_codes():
        from flows.cli.running.recut import recut_run

        records = recut_run(run, source, show=not as_json)
        if as_json:
            print(json.dumps(records))


@app.command()
def report(run: RunArgument, round: RoundOption = None, as_json: JsonOption = False) -> None:
    """Show what was learnt, by round, and where the reports are. --json prints a round's report.json."""
    with errors_as_exit_codes():
        from flows.cli.inspecting.summary import print_summary, read_report
        from xdc_core.runs.run import open_run

        opened = open_run(run)
        content = read_report(opened, round)
        if as_json:
            print(json.dumps(content.content(), indent=2))
        else:
            print_summary(opened, content)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="searched with all folders in it")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """List the runs in a folder, with their settings and results."""
    with errors_as_exit_codes():
        from flows.cli.inspecting.overview import print_runs
        from xdc_core.inspection.catalogue import describe_run, find_runs

        described = [describe_run(root) for root in find_runs(folder)]
        if as_json:
            print(json.dumps(described, indent=2))
        else:
            print_runs(folder, described)


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="RUN_A", help="a run's directory")],
    b: Annotated[Path, typer.Argument(metavar="RUN_B", help="another's")],
    as_json: JsonOption = False,
) -> None:
    """Show what differs between two runs: settings, data, results, and how alike their clusters are."""
    with errors_as_exit_codes():
        from flows.cli.inspecting.overview import print_difference
        from xdc_core.inspection.difference import difference
        from xdc_core.runs.run import open_run

        differing = difference(open_run(a), open_run(b))
        if as_json:
            print(json.dumps(differing, indent=2))
        else:
            print_difference(differing)


@app.command()
def track(
    run: RunArgument,
    to: Annotated[str, typer.Option(help="tensorboard, wandb or mlflow")] = "tensorboard",
    every: Annotated[float | None, typer.Option(help="go on, looking again after so many seconds")] = None,
) -> None:
    """Send a run's curves to a tracker: what it has not got yet, also of a training in progress."""
    with errors_as_exit_codes():
        import time

        from xdc_core.runs.run import open_run
        from xdc_core.tracking.publish import publish

        while True:
            sent = publish(open_run(run), to)
            print(f"{sent} points sent to {to}")
            if every is None:
                return
            time.sleep(every)


@app.command("eval")
def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="runs' directories")],
    only: Annotated[list[str] | None, typer.Option(help="name of an evaluation  [default: all of xdc.yaml]")] = None,
    round: Annotated[
        int | None, typer.Option("--round", help="its first encoders; 0: untrained ones (scratch)")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="ask for one: fc, all, svm, knn, retrieval or clusters")] = None,
    modality: Annotated[str | None, typer.Option(help="of what is asked for: video, audio, or another")] = None,
    data: Annotated[str | None, typer.Option(help="layout of a data set, such as esc50  [default: the corpus]")] = None,
    root: Annotated[Path | None, typer.Option(help="where that data set's files lie")] = None,
    label: Annotated[str, typer.Option(help="label column of the corpus")] = "label",
    views: Annotated[int | None, typer.Option(help="of a data set: views of a recording  [default: 10]")] = None,
    frames: Annotated[
        int | None, typer.Option(help="of a data set: frames of a view, of sound their time  [default: as in training]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="do it again, even where it is fresh")] = False,
    table: Annotated[
        bool, typer.Option("--table", help="only print what is there, beside the paper's numbers")
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
        if protocol:
            names += {
                evaluations.ask(run, data, root, protocol, modality, label, views=views, frames=frames) for run in runs
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


@app.command()
def compare(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="the study's directory (made if it is not there)")],
    speech: Annotated[Path | None, typer.Option(help="recordings in the Free Spoken Digit layout")] = None,
    contenders: Annotated[str | None, typer.Option(help="which, with commas  [default: all six]")] = None,
    seeds: Annotated[int | None, typer.Option(help="runs of each contender  [default: 3]")] = None,
    draws: Annotated[int | None, typer.Option(help="corpora they are spread over  [default: 2]")] = None,
    rounds: Annotated[int | None, typer.Option(help="training rounds  [default: the preset's]")] = None,
    vary: Annotated[str | None, typer.Option(metavar="NAME=V1,V2", help="such as digits.nuisance=0,0.15,0.4")] = None,
    change: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="of all runs: train.lr=0.001")] = None,
    preset: Annotated[str | None, typer.Option(help="of the runs  [default: digits]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the methods, a control and baselines on audio-visual digits. Goes on where an earlier call ended."""
    with errors_as_exit_codes():
        from flows.cli.running.compare import make_study, parse_overrides, print_study, run_study

        choices = {
            "speech": speech,
            "contenders": tuple(contenders.split(",")) if contenders else None,
            "seeds": seeds,
            "draws": draws,
            "rounds": rounds,
            "vary": parse_overrides([vary], several=True) if vary else None,
            "change": parse_overrides(change or []) or None,
            "preset": preset,
        }
        make_study(study, {name: value for name, value in choices.items() if value is not None})
        facts = run_study(study)
        if as_json:
            print(json.dumps(facts, indent=2))
        else:
            print_study(study, facts)


@app.command()
def doctor(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="where locks are tried, beside here, runs and corpora; of a run also where its corpus lies"
        ),
    ] = None,
    as_json: JsonOption = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="mark as Crashed the flow runs that Prefect holds for running and whose process is gone"
        ),
    ] = False,
    dead: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="with --repair: a flow run known to be dead, wherever it ran")
    ] = None,
) -> None:
    """Check what of this machine works: packages, codecs, GPU, faiss, locks, Prefect and its unfinished flow runs.

    Exits with 1 if xdc cannot run.
    """
    with errors_as_exit_codes():
        from flows.cli.machine.doctor import examine, print_findings
        from shards.errors import ConfigError

        if dead and not repair:
            raise ConfigError("--dead names a flow run to repair: give --repair with it.")
        findings = examine(folders or [], repair, dead or [])
        if as_json:
            print(json.dumps(findings, indent=2))
        else:
            print_findings(findings)
        if any(finding["state"] == "broken" for finding in findings):
            raise typer.Exit(1)


def main() -> None:
    """Run the command; the entry point."""
    app()
