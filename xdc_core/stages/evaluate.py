"""The eval stage: evaluate the encoders at the start of a round, with one protocol on one data set."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shards.datasets.originals import NAMES as ORIGINALS
from shards.store.build import Outcome
from shards.store.fault import fault_point
from shards.store.files import write_json
from shards.store.manifest import fingerprint
from shards.store.parquet import write_parquet
from shards.store.stage import Library, Stage, Task
from xdc_core.config.evaluation import CORPUS, evaluated_modality
from xdc_core.config.schema import Config
from xdc_core.config.views import views_of
from xdc_core.documents.results import Trial, write_results
from xdc_core.encoders.transformers_files import is_transformers
from xdc_core.evaluation.recordings import read_recordings
from xdc_core.evaluation.settings import Evaluation
from xdc_core.evaluation.summary import summarise, table_of
from xdc_core.evaluation.trial import write_predictions
from xdc_core.probes.trials import trial_runner
from xdc_core.runs.node import SHARD, Node, encoder_node
from xdc_core.runs.run import Run
from xdc_core.runs.task import task_of_document


def evaluate(task: Task[Evaluation]) -> Outcome:
    """Write results.json and results.parquet with all trials (every split with every seed), and the predictions.

    A finished trial is kept in trials/<split>-<seed>.json and predictions/<split>-<seed>.parquet.

    Raises:
        ConfigError: the labels or splits do not exist; lists the existing ones.
        StageError: features are not finite.
    """
    out, recordings = task.out, read_recordings(task)
    pairs = list(itertools.product(recordings.splits, range(task.settings.evaluation.seeds)))
    run_trial = trial_runner(task, recordings, "xdc_core.stages.evaluate:finetune_as_rank")
    trials = []
    for done, (split, seed) in enumerate(pairs, start=1):
        path = out / "trials" / f"{split}-{seed}.json"
        if path.exists():
            trial = Trial.model_validate_json(path.read_bytes())
        else:
            trial, predictions = run_trial(split, seed)
            if predictions is not None:
                file = out / "predictions" / f"{split}-{seed}.parquet"
                write_predictions(file, predictions, recordings.names, recordings.classes)
            write_json(path, trial.model_dump(mode="json"))
        _remove_checkpoints(out / f"{split}-{seed}")
        trials.append(trial)
        task.progress(done, len(pairs), f"trials, {_headline(trial)}")
    results = summarise(task, recordings, trials)
    write_results(out, results)
    write_parquet(out / "results.parquet", table_of(results))
    summary = {metric: spread.mean for metric, spread in results.metrics.items()}
    return Outcome(len(trials), sum(recordings.missing.values()), summary | {"warnings": len(results.warnings)})


def _remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a fine-tuning. Call this after its trial is written."""
    for file in sorted(folder.glob("*")):
        fault_point("before removal", f"epoch of {folder.name}")
        file.unlink()
        fault_point("after removal", f"epoch of {folder.name}")
    if folder.exists():
        fault_point("before removal", folder.name)
        folder.rmdir()
        fault_point("after removal", folder.name)


def finetune_as_rank(document: Mapping[str, Any], arguments: list[str], send: Callable[[object], None]) -> None:
    """Fine-tune as one of several ranks; see `xdc_core.probes.finetuning_rank`."""
    from xdc_core.probes import finetuning_rank

    finetuning_rank.finetune_as_rank(task_of_document(EVALUATE, document), arguments, send)


def _headline(trial: Trial) -> str:
    name, value = next(iter(trial.metrics.items()), ("no metric", float("nan")))
    return f"{trial.split}: {name} {value:.3f}"


def due_evaluations(config: Config, number: int) -> list[str]:
    """Return the names of the evaluations that are part of a round."""
    given = config.evaluate.items()
    if number >= config.last_round:
        return [name for name, evaluation in given if evaluation.when in ("rounds", "end")]
    return [name for name, evaluation in given if evaluation.when == "rounds" and number % evaluation.every == 0]


def _nodes(config: Config, number: int | None) -> list[Node]:
    return [] if number is None else [Node("eval", name, number) for name in due_evaluations(config, number)]


def _inputs(config: Config, node: Node) -> list[Node]:
    assert node.round is not None
    name = str(node.modality)
    evaluation = config.evaluate[name]
    modality = evaluated_modality(evaluation, config.datasets)
    corpus = evaluation.data == CORPUS
    data = SHARD if corpus else Node("data", evaluation.data)
    if evaluation.protocol == "all":
        return [data, encoder_node(str(modality), node.round)]
    if not corpus:
        return [data, Node("embed", evaluation.data, node.round)]
    chosen = [modality] if modality else config.modalities
    return [data, *(Node("extract", each, node.round) for each in chosen)]


def _settings(config: Config, node: Node) -> Evaluation:
    evaluation = config.evaluate[str(node.modality)]
    modality = evaluated_modality(evaluation, config.datasets)
    dataset = config.datasets.get(evaluation.data)
    return Evaluation(
        seed=config.seed,
        evaluation=evaluation,
        dataset=dataset,
        views=views_of(config, modality, dataset.frames if dataset else None) if modality else None,
        layout=dataset.layout if dataset else config.corpus.layout,
        cluster=config.cluster,
        method=config.method,
        control=config.train.shuffle_labels,
        learn_splits=config.corpus.learn_splits,
        encoder=getattr(config, modality).encoder if modality and modality in config.encoded else None,
        weights=_given(config, modality) if modality else None,
        runs_on=config.runs_on,
    )


def _given(config: Config, modality: str) -> str | None:
    """Return from what a modality starts instead of random weights: a file, a model, or a folder of features."""
    settings = getattr(config, modality)
    if config.corpus.features:
        return config.corpus.features[modality]
    return settings.weights or (settings.encoder if is_transformers(settings.encoder) else None)


def _outside(run: Run, node: Node) -> dict[str, str]:
    """Return the digest of a data set's own splits, and marks of what earlier versions did in another way.

    One is set if an evaluation that encodes views itself is of files that have parts with different labels. The other
    says that originals are held out together. It is set if file names have originals and the evaluation holds
    recordings out. `clusters` holds recordings out only to divide a data set without a test part.
    """
    config, evaluation = run.config, run.config.evaluate[str(node.modality)]
    name = evaluation.data
    layout = config.corpus.layout if name == CORPUS else config.datasets[name].layout
    together = {"originals": "held out together"} if layout in ORIGINALS else {}
    if name == CORPUS:
        return together
    from shards.layouts.registry import read_dataset

    splits = read_dataset(config.datasets[name].layout, run.dataset_root(name)).splits
    divided = any(set(split.roles.values()) == {"train"} for split in splits)
    digest = fingerprint([[split.name, dict(split.roles)] for split in splits])
    marks = together if evaluation.protocol != "clusters" or divided else {}
    if evaluation.protocol == "all":
        from xdc_core.data.view_starts import mark_of_parts

        marks = marks | mark_of_parts(run.directory(Node("data", name)))
    return {"splits": digest} | marks


def _library(config: Config, node: Node) -> Library:
    return "torch" if config.evaluate[str(node.modality)].protocol == "all" else "faiss"


EVALUATE: Stage[Config, Run, Evaluation] = Stage(
    name="eval",
    version=2,
    summary="Evaluate the encoders at the start of a round with one protocol.",
    unit="trial",
    folder="evaluations",
    of="name",
    each_round=True,
    library=_library,
    modules=("sklearn.linear_model",),
    nodes=_nodes,
    inputs=_inputs,
    settings=_settings,
    work=evaluate,
    outside=_outside,
)
