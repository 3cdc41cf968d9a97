"""Evaluations from the command line."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from flows.cli.running.clean import print_made_again
from flows.cli.running.new_run import relative
from flows.executors.preflight import check_run, check_run_for
from flows.runners.forked import Children
from flows.runners.scheduler import Job, Scheduler
from flows.terminal import show_progress
from shards.command import command
from shards.errors import Busy, ConfigError, StageError
from shards.store.files import write_text
from shards.store.lock import in_turn
from shards.store.manifest import fingerprint
from xdc_core.cleaning.asked import kept_for
from xdc_core.config.evaluation import BY_LAYOUT, CORPUS, evaluated_modality
from xdc_core.config.load import EVALUATIONS_FILE, FILE_NAME, read_yaml
from xdc_core.graph.rounds import as_stopped, check_round, newest_with_encoders
from xdc_core.graph.stages import encoders_from_files, evaluation_nodes, inputs
from xdc_core.inspection.results import ListedResults, markdown_table, read_results
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run

NOTES = """# Evaluations that xdc eval added; read together with xdc.yaml.
# Paths are relative to this file.
"""


def ask(
    root: Path,
    layout: str | None,
    files: Path | None,
    protocol: str,
    modality: str | None,
    label: str,
    recipe: str | None = None,
    held_out: float | None = None,
    **views: int | None,
) -> str:
    """Add an evaluation to a run's evaluate.yaml, unless it exists. Return its name.

    recipe: of the protocol `all`. held_out: share of the training recordings. Both are part of the name. `views`: views
    and frames of a data set, if they are given. Other settings of an existing evaluation are kept. If evaluate.yaml is
    a symbolic link, its target is written. Of several processes, each adds its evaluation to those of the others.

    Raises:
        ConfigError: the combination is not possible, or there is no run; nothing is written.
        Busy: another process does not end its change.
    """
    read_yaml(root / FILE_NAME)
    file = (root / EVALUATIONS_FILE).resolve()
    with in_turn(file):
        there = read_yaml(root / EVALUATIONS_FILE) if file.exists() else {}
        values = {"datasets": there.get("datasets") or {}, "evaluate": there.get("evaluate") or {}}
        evaluation: dict[str, Any] = {"protocol": protocol}
        asked = {name: value for name, value in views.items() if value is not None}
        if layout is None:
            if asked:
                raise ConfigError(
                    f"--{next(iter(asked))} is for data sets: in the run's own corpus a view is a whole clip."
                )
            if files is not None:
                raise ConfigError(f"--root {files} is the folder of a data set: name its layout with --data.")
            parts = [CORPUS, modality, protocol] + ([label] if label != "label" else [])
            evaluation |= {"modality": modality} if modality else {}
            evaluation |= {"label": label} if label != "label" else {}
        else:
            if files is None or modality is None:
                raise ConfigError(f"--data {layout} also needs --root (its folder) and --modality.")
            if label != "label":
                raise ConfigError(f"--label {label} is for the run's own corpus: a data set has one label, label.")
            data = dataset_name(values["datasets"], root, layout, modality, files)
            entry: dict[str, Any] = BY_LAYOUT.get(layout, {}) | _like_the_corpus(root, layout)
            entry |= values["datasets"].get(data) or {}
            entry |= {"layout": layout, "root": relative(files, root), "modality": modality} | asked
            values["datasets"] = values["datasets"] | {data: entry}
            evaluation["data"] = data
            parts = [data, protocol]
        if recipe and protocol != "all":
            raise ConfigError(f"--recipe {recipe} is for fine-tuning: use it with --protocol all, not {protocol}.")
        share = None if held_out is None else f"held-out-{held_out:g}".replace(".", "_")
        name = "-".join(part for part in (*parts, recipe, share) if part)
        if held_out is not None:
            evaluation["held_out"] = held_out
        if recipe:
            kept = (values["evaluate"].get(name) or {}).get("finetune") or {}
            evaluation["finetune"] = kept | {"recipe": recipe}
        old = file.read_bytes() if file.exists() else None
        values["evaluate"] = values["evaluate"] | {name: (values["evaluate"].get(name) or {}) | evaluation}
        write_text(file, NOTES + yaml.safe_dump(values, sort_keys=False))
        try:
            open_run(root)
        except ConfigError:
            if old is None:
                file.unlink()
            else:
                write_text(file, old.decode())
            raise
        return name


def refuse_unused(options: Mapping[str, object]) -> None:
    """Raise ConfigError if an option of an added evaluation has a value. For calls that add none."""
    if given := [option for option, value in options.items() if value is not None]:
        raise ConfigError(
            f"{', '.join(given)}: only for an evaluation that --protocol adds. Give --protocol too, or choose an "
            "existing evaluation with --only."
        )


def _like_the_corpus(root: Path, layout: str) -> dict[str, Any]:
    """Return how the pictures of a data set are cropped: as the run's corpus, if both are of GRID."""
    corpus = open_run(root).config.corpus
    alike = layout == "grid" and corpus.layout in ("grid", "grid_recordings") and corpus.crop is not None
    return {"crop": corpus.crop.model_dump(mode="json", exclude_defaults=True)} if alike and corpus.crop else {}


def dataset_name(there: dict[str, Any], root: Path, layout: str, modality: str, files: Path) -> str:
    """Return a name from layout and modality; a second such data set gets a digest of its folder."""
    name = f"{layout}-{modality}"
    if name not in there or (root / there[name]["root"]).resolve() == files.resolve():
        return name
    return f"{name}-{fingerprint(str(files.resolve()))[:6]}"


def newest_round(run: Run, name: str) -> int:
    """Return the last round whose first encoders, those that an evaluation needs, exist and are up to date.

    Raises:
        ConfigError: there is none.
    """
    modality = evaluated_modality(run.config.evaluate[name], run.config.datasets)
    return newest_with_encoders(run, [modality] if modality else run.config.modalities)


def needed(run: Run, name: str, number: int) -> list[Node]:
    """Return the nodes that an evaluation needs, except trainings and the corpus, and last the evaluation itself."""
    nodes = evaluation_nodes(run.config, [name], number)
    features = [node for node in inputs(run.config, nodes[-1]) if node.stage in ("data", "extract")]
    data = [node for node in inputs(run.config, nodes[0]) if node.stage == "data"]
    # Weights given to a run are read from their file when they are first needed.
    given = encoders_from_files(run.config, [*features, *nodes])
    return list(dict.fromkeys([*data, *given, *features, *nodes]))


def evaluate(roots: list[Path], names: list[str], number: int | None, force: bool) -> list[ListedResults]:
    """Run evaluations of runs: those named, or all. Return their results.

    Missing features are computed; rounds are not trained. force: evaluate again even if the results are fresh.

    Raises:
        ConfigError: a run has no such evaluation or round, or none at all, or its executor cannot be used.
        StageError: some failed; the others are finished.
        Busy: the only cause of failures is that another process is building what they need.
    """
    runs = [as_stopped(open_run(root)) for root in roots]
    wanted: list[Job] = []
    jobs: list[Job] = []
    for run in runs:
        for name in names or run.config.evaluate:
            if name not in run.config.evaluate:
                there = ", ".join(run.config.evaluate) or "none"
                raise ConfigError(f"{run.root} has no evaluation {name!r}. There are: {there}.")
            at = newest_round(run, name) if number is None else number
            check_round(run, at)
            nodes = needed(run, name, at)
            wanted.append(Job(run, nodes[-1], force))
            jobs += [*(Job(run, node) for node in nodes[:-1]), wanted[-1]]
    if not wanted:
        example = command("xdc", "eval", roots[0], "--protocol", "fc", "--modality", "video")
        raise ConfigError(
            f"{roots[0]} has no evaluations. Add one, for example: {example} "
            "(on its own corpus's labels), or write them into its xdc.yaml; see docs/evaluation.md."
        )
    for run in runs:
        nodes = [job.node for job in jobs if job.run is run]
        check_run(run) if force else check_run_for(run, nodes)
        print_made_again(run, nodes, [job.node for job in wanted if job.run is run and force])
    with Children() as children, show_progress() as listener, ExitStack() as kept:
        for run in runs:
            kept.enter_context(kept_for(run, [job.node for job in wanted if job.run is run], force))
        scheduler = Scheduler(children, lambda run: listener)
        # One at a time: each takes all the threads that the configuration gives it.
        scheduler.run(jobs, max_parallel=1)
    failed = [job for job in wanted if job.key not in scheduler.done]
    if failed:
        errors = list(scheduler.failed.values())
        kind = Busy if all(isinstance(error, Busy) for error in errors) else StageError
        raise kind(f"{len(failed)} of {len(wanted)} evaluations failed. {errors[0]}")
    paths = {str(job.run.directory(job.node) / "results.json") for job in wanted}
    return [result for result in read_results(runs) if result.path in paths]


def table(roots: list[Path]) -> str:
    """Return a table of all evaluations of these runs, beside the paper's numbers."""
    results = read_results([as_stopped(open_run(root)) for root in roots])
    if not results:
        do_it = command("xdc", "eval", roots[0])
        raise ConfigError(f"{', '.join(map(str, roots))}: nothing has been evaluated yet. Run: {do_it}")
    return markdown_table(results)
