"""The information that features share with pseudo-labels, measured without other labels.

Over all clips, and within recordings. What is the same in all clips of a recording (light, pose, background noise)
is shared by pictures and sounds, too, and in the first rounds may be most of what is shared. It is left out of the
second measure, which then tells which modality's clusters follow what happens in a recording.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.corpus.index import shard_names
from shards.errors import StageError
from shards.progress import Progress, silent
from shards.store.files import part_path
from shards.store.stage import Task
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import thread_count
from xdc_core.config.selection import ALL_CLIPS, SelectSettings
from xdc_core.data.features import read_features
from xdc_core.data.labels import read_labels
from xdc_core.data.selection import read_learnable
from xdc_core.documents.teachers import Pair
from xdc_core.probes.probe import fit_with_warnings
from xdc_core.probes.standardise import fit_standard
from xdc_core.runs.node import SHARD, Node

FOLDS = 4
# Deviations from the mean. A unit that is silent in most recordings and loud in one would decide all.
LIMIT = 10.0
# Half the squared weights stand against the mean cross-entropy times this: strong regularisation. With little of it the
# classifier of a weak relation is worse than the clusters' frequencies. The best is taken.
STRENGTHS = (1.0, 10.0)
TOLERANCE, ITERATIONS = 1e-3, 500


@dataclass(frozen=True)
class Information:
    """nats: per clip. error: the standard error of nats over recordings. accuracy: of the classifier. chance: of the
    largest cluster.
    """

    nats: float
    error: float
    accuracy: float
    chance: float


def shared_information(features: np.ndarray, clusters: np.ndarray, sources: np.ndarray) -> Information:
    """Return how much better a linear classifier on features predicts clusters than their frequencies do.

    features: float32 [n, width]. clusters: int [n]. sources: the recording of each clip, numbers or text [n]. Clips are
    predicted by a classifier (multinomial logistic regression on standardised features) fitted to three quarters of
    the recordings without their own; with fewer than four recordings, to three quarters of the clips. A clip of a
    cluster that is not in these three quarters has the gain 0.

    The gain in log-likelihood is a lower bound, but for sampling, of the mutual information (ours, see docs/method.md).

    Raises:
        ValueError: there are fewer than four clips.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    if len(features) < FOLDS:
        raise ValueError(f"{len(features)} clips cannot be divided into {FOLDS} parts")
    groups = sources if len(np.unique(sources)) >= FOLDS else np.arange(len(features))
    gain = np.zeros((len(STRENGTHS), len(features)))
    right = np.zeros(gain.shape, bool)
    for fitted, held in GroupKFold(FOLDS).split(features, groups=groups):
        standard = fit_standard(features[fitted])
        points, others = (np.clip(standard(features[rows]), -LIMIT, LIMIT) for rows in (fitted, held))
        names, counts = np.unique(clusters[fitted], return_counts=True)
        if len(names) < 2:
            continue  # The frequencies say all.
        place = np.minimum(np.searchsorted(names, clusters[held]), len(names) - 1)
        known = names[place] == clusters[held]
        place, rows = place[known], np.flatnonzero(known)
        frequencies = np.log(counts / counts.sum())
        model = LogisticRegression(tol=TOLERANCE, max_iter=ITERATIONS, warm_start=True)
        for number, strength in enumerate(STRENGTHS):
            model.C = strength / len(fitted)
            fit_with_warnings(model, points, clusters[fitted])
            logs = model.predict_log_proba(others)
            gain[number, held[known]] = logs[rows, place] - frequencies[place]
            right[number, held] = names[logs.argmax(1)] == clusters[held]
    best = int(gain.mean(axis=1).argmax())
    _, counts = np.unique(clusters, return_counts=True)
    return Information(
        float(gain[best].mean()),
        _standard_error(gain[best], groups),
        float(right[best].mean()),
        float(counts.max() / len(clusters)),
    )


def _standard_error(values: np.ndarray, groups: np.ndarray) -> float:
    """Return the standard error of the mean of values [n] whose groups [n], but not themselves, are independent."""
    _, group = np.unique(groups, return_inverse=True)
    sums = np.bincount(group, values - values.mean())
    return float(np.sqrt((sums**2).sum()) / len(values))


def less_recordings(features: np.ndarray, sources: np.ndarray) -> np.ndarray | None:
    """Return features less their mean over the clips of a recording: float32 [n, width]. Ours, see docs/method.md.

    features: float32 [n, width]. sources: the recording of each clip, numbers or text [n]. Clips that are their
    recording's only one get zeros. None: more than half of the clips would.
    """
    _, recording, counts = np.unique(sources, return_inverse=True, return_counts=True)
    if (counts[recording] == 1).mean() > 0.5:
        return None
    sums = np.zeros((len(counts), features.shape[1]))
    np.add.at(sums, recording, features)
    return (features - (sums / counts[:, None])[recording]).astype(np.float32)


@dataclass(frozen=True)
class Sample:
    """Clips with pseudo-labels in all modalities. keys, shards and sources (recordings): text [clips]; clusters: int
    [clips] by modality, of the round in which the sample was drawn.
    """

    keys: np.ndarray
    shards: np.ndarray
    sources: np.ndarray
    clusters: dict[str, np.ndarray]


def draw_sample(
    corpus: Path,
    labels: Mapping[str, Path],
    splits: Sequence[str] | None,
    most: int,
    seed: int,
    select: SelectSettings = ALL_CLIPS,
    whole: bool = False,
) -> Sample:
    """Return clips of some splits (None: all) that thresholds keep and that have a pseudo-label in all modalities.

    labels: a directory of stage label by modality. Of more than `most` clips, the first of randomly chosen shards are
    taken. whole: those of randomly chosen recordings instead, all clips of each (but for the last): a look into every
    shard. There may be none.

    Raises:
        StageError: a file is damaged.
        ConfigError: a clip was not measured as a threshold needs it.
    """
    names = shard_names(corpus)
    rows: list[tuple[Any, ...]] = []
    rng = np.random.default_rng(seed)
    chosen = _recordings(corpus, splits, most, rng, select) if whole else None
    for number in rng.permutation(len(names)).tolist():
        if len(rows) >= most:
            break
        shard = names[number]
        index = read_learnable(corpus, shard, splits, select, "key", "source")
        if chosen is not None:
            index = index.filter(pc.is_in(index["source"], chosen))
            if not len(index):
                continue
        clusters = [
            dict(zip(*map(np.ndarray.tolist, read_labels(path, shard)), strict=True)) for path in labels.values()
        ]
        for key, source in zip(index["key"].to_pylist(), index["source"].to_pylist(), strict=True):
            if all(key in found for found in clusters):
                rows.append((key, shard, source, *(found[key] for found in clusters)))
    keys, shards, sources, *columns = (np.array([row[n] for row in rows[:most]]) for n in range(3 + len(labels)))
    return Sample(keys, shards, sources, dict(zip(labels, columns, strict=True)))


def _recordings(
    corpus: Path, splits: Sequence[str] | None, most: int, rng: np.random.Generator, select: SelectSettings
) -> pa.Array | None:
    """Return randomly chosen recordings with at least `most` clips together. None: all have no more than that."""
    clips: Counter[str] = Counter()
    for shard in shard_names(corpus):
        clips.update(read_learnable(corpus, shard, splits, select, "source")["source"].to_pylist())
    if clips.total() <= most:
        return None
    names = sorted(clips)
    order = [names[number] for number in rng.permutation(len(names)).tolist()]
    enough = int(np.searchsorted(np.cumsum([clips[name] for name in order]), most)) + 1
    return pa.array(order[:enough])


def read_sample(
    task: Task[Any], modalities: Sequence[str], most: int, whole: bool = False
) -> tuple[Sample, dict[str, np.ndarray]]:
    """Draw a sample of the clips that a task's round learns from, and read its features: float32 [clips, width].

    The task's settings have the seed, the splits, the thresholds and the number of threads, to which this process is
    then limited. The sample is the same in all rounds. With fewer than four clips, too few to measure, no features are
    read.

    Raises:
        StageError, ConfigError: as `draw_sample` and `sampled_features`.
    """
    from threadpoolctl import threadpool_limits

    given = task.settings
    threadpool_limits(thread_count(given.runs_on))
    labels = {name: task.directory(Node("label", name, task.round)) for name in modalities}
    seed = derive_seed(given.seed, "teachers")
    sample = draw_sample(task.directory(SHARD), labels, given.learn_splits, most, seed, given.select, whole)
    if len(sample.keys) < FOLDS:
        return sample, {}
    extracted = {name: task.directory(Node("extract", name, task.round)) for name in modalities}
    return sample, {name: sampled_features(sample, directory) for name, directory in extracted.items()}


def sampled_features(sample: Sample, directory: Path) -> np.ndarray:
    """Return the features of a sample's clips from a directory of stage extract: float32 [clips, width].

    Raises:
        StageError: a clip has no feature, or a file is damaged.
    """
    features: np.ndarray | None = None
    for shard in np.unique(sample.shards):
        keys, vectors = read_features(part_path(directory, shard))
        row_of = {key: row for row, key in enumerate(keys.tolist())}
        (places,) = np.nonzero(sample.shards == shard)
        try:
            rows = [row_of[key] for key in sample.keys[places].tolist()]
        except KeyError as error:
            raise StageError(
                f"{directory}: clip {error.args[0]} has a pseudo-label, but no feature. Run extract --force."
            ) from error
        if features is None:
            features = np.empty((len(sample.keys), vectors.shape[1]), np.float32)
        features[places] = vectors[rows]
    assert features is not None
    return features


def measure_pairs(sample: Sample, features: Mapping[str, np.ndarray], progress: Progress = silent) -> list[Pair]:
    """Return what the clusters of each modality share with the features of each other modality, of the same round."""
    pairs, ordered = [], list(itertools.permutations(features, 2))
    inside = {name: less_recordings(values, sample.sources) for name, values in features.items()}
    for number, (student, teacher) in enumerate(ordered):
        progress(number, len(ordered), f"pairs of modalities, {student} and the clusters of {teacher}")
        clusters = sample.clusters[teacher]
        found = shared_information(features[student], clusters, sample.sources)
        values = {"shared": found.nats, "accuracy": found.accuracy, "chance": found.chance, "shared_error": found.error}
        moving = inside[student]
        if moving is not None:
            within = shared_information(moving, clusters, sample.sources)
            values |= {"within": within.nats, "within_error": within.error}
        pairs.append(Pair(student=student, teacher=teacher, **{name: round(v, 4) for name, v in values.items()}))
    return pairs
