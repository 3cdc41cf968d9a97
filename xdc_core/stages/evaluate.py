"""The eval stage: evaluate the encoders at the start of a round, with one protocol on one data set."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shards.corpus.index import shard_names
from shards.datasets.originals import NAMES as ORIGINALS
from shards.errors import ConfigError, StageError
from shards.store.build import Outcome
from shards.store.fault import fault_point
from shards.store.files import write_json
from shards.store.manifest import fingerprint
from shards.store.parquet import write_parquet
from shards.store.stage import Library, Stage, Task
from xdc_core.clustering.agreement import Contingency, agreement
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import thread_count
from xdc_core.config.evaluation import CORPUS
from xdc_core.config.protocols import PROBES
from xdc_core.config.schema import Config, algorithm_of, evaluated_modality
from xdc_core.config.views import views_of
from xdc_core.data.features import read_features
from xdc_core.documents.results import Results, Spread, Trial, write_results
from xdc_core.evaluation.examples import Examples, check_split
from xdc_core.evaluation.predictions import Predictions
from xdc_core.evaluation.recordings import Recordings, read_recordings
from xdc_core.evaluation.settings import Evaluation
from xdc_core.evaluation.spread import spread
from xdc_core.evaluation.trial import trial_of, write_predictions
from xdc_core.probes.retrieval import retrieve
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
    run_trial = _trial_runner(task, recordings)
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


TrialRunner = Callable[[str, int], tuple[Trial, Predictions | None]]


def _trial_runner(task: Task[Evaluation], recordings: Recordings) -> TrialRunner:
    """Return the function that runs one trial; features are read once for all trials."""

    def seed_of(split: str, seed: int) -> int:
        # The seed does not depend on the round: all rounds hold out the same recordings.
        return derive_seed(task.settings.seed, "eval", task.node.modality, split, seed)

    evaluation = task.settings.evaluation

    if evaluation.protocol == "all":
        if evaluation.finetune.processes > 1:
            from xdc_core.probes.finetuning_rank import finetune_in_ranks

            work = "xdc_core.stages.evaluate:finetune_as_rank"
            return lambda split, seed: finetune_in_ranks(task, work, split, seed, seed_of(split, seed))
        from xdc_core.probes.finetuning import finetune

        return lambda split, seed: finetune(task, recordings, split, seed, seed_of(split, seed))
    from threadpoolctl import threadpool_limits

    threadpool_limits(thread_count(task.settings.runs_on))
    if evaluation.protocol == "retrieval":
        return _retrieval(task, recordings, seed_of)
    features, owners = read_views(task, recordings)
    if evaluation.protocol == "clusters":
        return _clusters(task.settings, recordings, features, owners, seed_of)
    probe = PROBES.find(evaluation.protocol)

    def classify(split: str, seed: int) -> tuple[Trial, Predictions]:
        train, test = (
            _examples(features, recordings, owners, np.isin(owners, recordings.part(split, role)))
            for role in ("train", "test")
        )
        predictions: Predictions = probe(
            train, test, len(recordings.classes), seed_of(split, seed), evaluation.held_out
        )
        unread = unread_recordings(recordings, split, owners)
        size = len(np.unique(train.groups))
        return trial_of(predictions, recordings.classes, split, seed, size, unread), predictions

    return classify


def _examples(features: np.ndarray, recordings: Recordings, owners: np.ndarray, chosen: np.ndarray) -> Examples:
    own = owners[chosen]
    originals = None if recordings.originals is None else recordings.originals[own]
    return Examples(features[chosen], recordings.labels[own], own, originals)


def unread_recordings(recordings: Recordings, split: str, owners: np.ndarray) -> tuple[str, ...]:
    """Return warnings with the numbers of recordings of a split without a view."""
    unread = {role: len(np.setdiff1d(recordings.part(split, role), owners)) for role in ("train", "test")}
    return tuple(
        f"{count} {role} recordings could not be read, and are not counted" for role, count in unread.items() if count
    )


def _clusters(
    given: Evaluation,
    recordings: Recordings,
    features: np.ndarray,
    owners: np.ndarray,
    seed_of: Callable[[str, int], int],
) -> TrialRunner:
    """Return the trials of `clusters`: cluster training views, assign the test views, and compare with labels."""
    from xdc_core.clustering.preprocess import fit_preprocess

    settings, threads = given.cluster, thread_count(given.runs_on)
    clusterer, own = algorithm_of(settings)

    def compare(split: str, seed: int) -> tuple[Trial, None]:
        k = given.evaluation.k or len(recordings.classes)
        train, test = (np.isin(owners, recordings.part(split, role)) for role in ("train", "test"))
        train_views, test_views = (_examples(features, recordings, owners, part) for part in (train, test))
        warnings = check_split(train_views, test_views, len(recordings.classes))
        if int(train.sum()) < k:
            raise ConfigError(f"{split}: {int(train.sum())} views to learn from are fewer than k ({k}). Lower k.")
        preprocess, _ = fit_preprocess([features[train]], settings)
        model, _ = clusterer.fit(preprocess([features[train]]), k, own, seed_of(split, seed), threads)
        counts = Contingency()
        labels = [recordings.classes[recordings.labels[owner]] for owner in owners[test]]
        counts.add(clusterer.assign(model, preprocess([features[test]]), k)[1], labels)
        scores = agreement(counts)
        metrics = {
            name: value for name, value in scores.items() if name not in ("clips", "labels") and value is not None
        }
        if not metrics:
            warnings += ("the test recordings have only one label: the agreement with clusters is undefined",)
        warnings += unread_recordings(recordings, split, owners)
        sizes = tuple(len(np.unique(owners[part])) for part in (train, test))
        trial = Trial(
            split=split, seed=seed, train=sizes[0], test=sizes[1], metrics=metrics, chosen={"k": k}, warnings=warnings
        )
        return trial, None

    return compare


def _retrieval(task: Task[Evaluation], recordings: Recordings, seed_of: Callable[[str, int], int]) -> TrialRunner:
    corpus = task.directory(SHARD)
    read = [node for node in task.inputs if node.stage == "extract"]
    parts = {str(node.modality): dict(_features_of(corpus, task.directory(node))) for node in read}
    keys = [key for key in recordings.of_clip if all(key in part for part in parts.values())]
    owners = np.array([recordings.of_clip[key] for key in keys], np.int64)
    features = {name: np.stack([part[key] for key in keys]) for name, part in parts.items()}

    def search(split: str, seed: int) -> tuple[Trial, None]:
        train, test = (np.isin(owners, recordings.part(split, role)) for role in ("train", "test"))
        labels = recordings.labels[owners[test]] if recordings.classes else None
        results = {
            (first, second): retrieve(
                features[first][train],
                features[second][train],
                features[first][test],
                features[second][test],
                labels,
                seed_of(split, seed),
                owners[train] if recordings.originals is None else recordings.originals[owners[train]],
                task.settings.evaluation.held_out,
                names=(first, second),
            )
            for first, second in itertools.combinations(features, 2)
        }
        metrics, chosen, warnings = _of_all_pairs(results)
        trial = Trial(
            split=split,
            seed=seed,
            train=int(train.sum()),
            test=int(test.sum()),
            metrics=metrics,
            chosen=chosen,
            warnings=(*warnings, *unread_recordings(recordings, split, owners)),
        )
        return trial, None

    return search


def _of_all_pairs(
    results: dict[tuple[str, str], dict[str, Any]],
) -> tuple[dict[str, float], dict[str, Any], tuple[str, ...]]:
    """Return metrics, chosen hyper-parameters, and warnings. With several pairs, the hyper-parameters are by pair."""
    metrics = {name: value for result in results.values() for name, value in _flat(result)}
    if len(results) == 1:
        (result,) = results.values()
        return metrics, result["chosen"], tuple(result["warnings"])
    chosen = {"-".join(pair): result["chosen"] for pair, result in results.items()}
    warnings = [f"{' and '.join(pair)}: {text}" for pair, result in results.items() for text in result["warnings"]]
    return metrics, chosen, tuple(warnings)


def _flat(nested: dict[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a nested dictionary with their dotted names."""
    for name, value in nested.items():
        if name in ("chosen", "warnings"):
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        elif isinstance(value, float):
            yield f"{path}{name}", round(value, 6)


def _features_of(corpus: Path, directory: Path) -> Iterator[tuple[str, np.ndarray]]:
    for shard in shard_names(corpus):
        yield from zip(*read_features(directory / f"{shard}.parquet"), strict=True)


def read_views(task: Task[Evaluation], recordings: Recordings) -> tuple[np.ndarray, np.ndarray]:
    """Read features, float32 [views, width], of labelled recordings, and the recording of each, int64 [views].

    The views of the run's corpus are the centres of its clips, written by the extract stage.

    Raises:
        StageError: there are no features, or a file is damaged.
    """
    (directory,) = task.directories("extract" if task.settings.evaluation.data == CORPUS else "embed")
    parts = [read_features(path) for path in sorted(directory.glob("[0-9]*.parquet"))]
    if not parts:
        raise StageError(f"{directory} has no features. Check the rejects of its stage.")
    keys = np.concatenate([part[0] for part in parts])
    owners = np.array([recordings.of_clip.get(key, -1) for key in keys], np.int64)
    return np.concatenate([part[1] for part in parts])[owners >= 0], owners[owners >= 0]


def _headline(trial: Trial) -> str:
    name, value = next(iter(trial.metrics.items()), ("no metric", float("nan")))
    return f"{trial.split}: {name} {value:.3f}"


def summarise(task: Task[Evaluation], recordings: Recordings, trials: list[Trial]) -> Results:
    """Return the results: all trials, and the mean and spread of every metric."""
    given, evaluation, views = task.settings, task.settings.evaluation, task.settings.views
    # The splits of a corpus (validation, test) are not repetitions: the metrics are those of the last one.
    last = list(recordings.splits)[-1]
    counting = trials if evaluation.data != CORPUS else [trial for trial in trials if trial.split == last]
    warnings = [f"{trial.split}, seed {trial.seed}: {text}" for trial in trials for text in trial.warnings]
    warnings += [f"{count} recordings: {reason}" for reason, count in recordings.missing.items()]
    warnings += recordings.notes
    return Results(
        evaluation=task.about,
        run=task.root.resolve().name,
        round=task.round,
        method=given.method,
        control=given.control,
        data=evaluation.data,
        layout=given.dataset.layout if given.dataset else None,
        protocol=evaluation.protocol,
        modality=views.modality.name if views else None,
        encoder=views.settings.encoder if views else None,
        weights=given.weights,
        settings=evaluation.model_dump(mode="json"),
        dataset=given.dataset.model_dump(mode="json") if given.dataset else None,
        classes=list(recordings.classes),
        metrics=spreads(counting),
        by_split={split: spreads([t for t in trials if t.split == split]) for split in recordings.splits},
        warnings=warnings,
        trials=trials,
    )


def spreads(trials: list[Trial]) -> dict[str, Spread]:
    """Return the spread of every metric over the trials that have it."""
    names = sorted({name for trial in trials for name in trial.metrics})
    return {name: spread([trial.metrics[name] for trial in trials if name in trial.metrics]) for name in names}


def table_of(results: Results) -> pa.Table:
    """Return the table results.parquet: one row per split, seed and metric, with the identifying columns."""
    common = ("evaluation", "run", "round", "method", "control", "data", "protocol", "modality", "encoder", "weights")
    rows = [
        {name: getattr(results, name) for name in common}
        | {"split": trial.split, "seed": trial.seed, "train": trial.train, "test": trial.test}
        | {"metric": metric, "value": value}
        | {
            "settings": json.dumps(results.settings, sort_keys=True),
            "dataset": json.dumps(results.dataset, sort_keys=True),
            "chosen": json.dumps(trial.chosen, sort_keys=True),
        }
        for trial in results.trials
        for metric, value in trial.metrics.items()
    ]
    return pa.Table.from_pylist(rows)


def due_evaluations(config: Config, number: int) -> list[str]:
    """Return the names of the evaluations that are part of a round."""
    due = ("rounds",) if number < config.last_round else ("rounds", "end")
    return [name for name, evaluation in config.evaluate.items() if evaluation.when in due]


def _nodes(config: Config, number: int | None) -> list[Node]:
    return [] if number is None else [Node("eval", name, number) for name in due_evaluations(config, number)]


def _inputs(config: Config, node: Node) -> list[Node]:
    assert node.round is not None
    name = str(node.modality)
    evaluation, modality = config.evaluate[name], evaluated_modality(config, name)
    corpus = evaluation.data == CORPUS
    data = SHARD if corpus else Node("data", evaluation.data)
    if evaluation.protocol == "all":
        return [data, encoder_node(str(modality), node.round)]
    if not corpus:
        return [data, Node("embed", evaluation.data, node.round)]
    chosen = [modality] if modality else config.modalities
    return [data, *(Node("extract", each, node.round) for each in chosen)]


def _settings(config: Config, node: Node) -> Evaluation:
    evaluation, modality = config.evaluate[str(node.modality)], evaluated_modality(config, str(node.modality))
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
        weights=getattr(config, modality).weights if modality else None,
        runs_on=config.runs_on,
    )


def _outside(run: Run, node: Node) -> dict[str, str]:
    """Return the digest of a data set's own splits, and a mark if originals are held out together.

    The mark is set if file names have originals and the evaluation holds recordings out. `clusters` holds recordings
    out only to divide a data set without a test part.
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
    return {"splits": digest} | (together if evaluation.protocol != "clusters" or divided else {})


def _library(config: Config, node: Node) -> Library:
    return "torch" if config.evaluate[str(node.modality)].protocol == "all" else "faiss"


EVALUATE: Stage[Config, Run, Evaluation] = Stage(
    name="eval",
    version=2,
    summary="Evaluate the encoders at the start of a round with one protocol.",
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
