"""The targets of one training round: a pseudo-label per clip and head, and the random order of clips."""

from dataclasses import dataclass

import numpy as np

from shards.corpus.index import shard_names
from shards.errors import StageError
from shards.store.node import Node
from shards.store.parquet import read_parquet
from shards.store.stage import Task
from xdc_core.compute.seed import derive_seed
from xdc_core.data.clips import ClipRows
from xdc_core.data.labels import read_k, read_labels
from xdc_core.data.sampling import draw_clips
from xdc_core.runs.node import SHARD
from xdc_core.training.settings import Training


@dataclass(frozen=True)
class TrainingTargets:
    """The clips and pseudo-labels of one training round.

    targets: by label source, int32 [rows of the index], -1 for clips without a pseudo-label. classes: k by label
    source. draws: row numbers, int64 [steps * batch], in the order of training.
    """

    rows: ClipRows
    sources: tuple[str, ...]
    targets: dict[str, np.ndarray]
    classes: dict[str, int]
    draws: np.ndarray
    steps: int


def read_targets(task: Task[Training]) -> TrainingTargets:
    """Read the targets of a node of training. They are the same in every rank and after every restart.

    The encoder learns from clips of `learn_splits` that have a feature of this modality and a pseudo-label from every
    source. With more than one label source (MDC) clips are drawn uniformly over the clusters of the first.

    Raises:
        StageError: no clip decodes and has a pseudo-label from every source.
    """
    settings, modality, corpus = task.settings, task.about, task.directory(SHARD)
    rows = ClipRows(corpus, shard_names(corpus), settings.views.modality)
    sources = settings.sources
    labels = {source: task.directory(Node("label", source, task.round)) for source in sources}
    targets = {source: np.full(len(rows), -1, np.int32) for source in sources}
    classes = {source: read_k(labels[source]) for source in sources}
    # A clip with a pseudo-label from another modality may not decode in this one.
    decodes = np.zeros(len(rows), bool)
    for shard, span in rows.by_shard():  # One shard at a time: the keys of all would need most of the memory.
        row_of = {key: number for number, key in enumerate(rows.keys[span].to_pylist(), start=span.start)}
        for source in sources:
            keys, clusters = read_labels(labels[source], shard)
            targets[source][[row_of[key] for key in keys]] = clusters
        features = task.directory(Node("extract", modality, task.round)) / f"{shard}.parquet"
        decodes[[row_of[key] for key in read_parquet(features, "extract", ["key"])["key"].to_pylist()]] = True
    learnable = rows.learnable(settings.learn_splits)
    usable = learnable[np.all([decodes[learnable], *(targets[name][learnable] >= 0 for name in sources)], axis=0)]
    if len(usable) == 0:
        raise StageError(
            f"{task.node}: no clip in corpus.learn_splits ({settings.learn_splits}) decodes and has a pseudo-label. "
            f"Check the column split of {corpus}/*.parquet."
        )
    steps = max(1, settings.train.clips // settings.train.batch)
    seed = derive_seed(settings.seed, task.round, "train", modality)
    if settings.train.shuffle_labels:
        for source, target in targets.items():
            rng = np.random.default_rng(derive_seed(seed, "shuffle", source))
            target[usable] = rng.permutation(target[usable])
    drawn = draw_clips(targets[sources[0]][usable], steps * settings.train.batch, settings.train.uniform, seed)
    return TrainingTargets(rows, sources, targets, classes, usable[drawn], steps)
