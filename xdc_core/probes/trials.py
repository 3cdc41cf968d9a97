"""The trials of an evaluation: one protocol on a split with a seed."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shards.corpus.index import shard_names
from shards.errors import ConfigError, StageError
from shards.store.files import part_path, parts_of
from shards.store.stage import Task
from xdc_core.clustering.agreement import Contingency, agreement
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import thread_count
from xdc_core.config.clustering import algorithm_of
from xdc_core.config.evaluation import CORPUS
from xdc_core.config.protocols import PROBES
from xdc_core.data.features import read_features
from xdc_core.documents.results import Trial
from xdc_core.evaluation.examples import Examples, check_split
from xdc_core.evaluation.predictions import Predictions
from xdc_core.evaluation.recordings import Recordings
from xdc_core.evaluation.settings import Evaluation
from xdc_core.evaluation.trial import trial_of
from xdc_core.probes.retrieval import retrieve
from xdc_core.runs.node import SHARD

TrialRunner = Callable[[str, int], tuple[Trial, Predictions | None]]


def trial_runner(task: Task[Evaluation], recordings: Recordings, rank_work: str) -> TrialRunner:
    """Return the function that runs one trial of a split with a seed; features are read once for all trials.

    rank_work: "module:function" that calls `finetune_as_rank`, for fine-tuning in several processes.

    Raises:
        StageError: there are no features, or a file is damaged.
    """

    def seed_of(split: str, seed: int) -> int:
        # The seed does not depend on the round: all rounds hold out the same recordings.
        return derive_seed(task.settings.seed, "eval", task.node.modality, split, seed)

    evaluation = task.settings.evaluation

    if evaluation.protocol == "all":
        if evaluation.finetune.processes > 1:
            from xdc_core.probes.finetuning_rank import finetune_in_ranks

            return lambda split, seed: finetune_in_ranks(task, rank_work, split, seed, seed_of(split, seed))
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
        yield from zip(*read_features(part_path(directory, shard)), strict=True)


def read_views(task: Task[Evaluation], recordings: Recordings) -> tuple[np.ndarray, np.ndarray]:
    """Read features, float32 [views, width], of labelled recordings, and the recording of each, int64 [views].

    The views of the run's corpus are the centres of its clips, written by the extract stage.

    Raises:
        StageError: there are no features, or a file is damaged.
    """
    (directory,) = task.directories("extract" if task.settings.evaluation.data == CORPUS else "embed")
    parts = [read_features(part_path(directory, shard)) for shard in parts_of(directory)]
    if not parts:
        raise StageError(f"{directory} has no features. Check the rejects of its stage.")
    keys = np.concatenate([part[0] for part in parts])
    owners = np.array([recordings.of_clip.get(key, -1) for key in keys], np.int64)
    return np.concatenate([part[1] for part in parts])[owners >= 0], owners[owners >= 0]
