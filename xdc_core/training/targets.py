"""What one training round has to learn: rows, a pseudo-label a head, and the order of the draws."""

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
    """`targets[source]` is int32 [rows of the index], -1 for clips that are not learnt from; `classes[source]` is k.
    `draws` holds row numbers, int64 [steps * batch].
    """

    rows: ClipRows
    sources: tuple[str, ...]
    targets: dict[str, np.ndarray]
    classes: dict[str, int]
    draws: np.ndarray
    steps: int


def read_targets(task: Task[Training]) -> TrainingTargets:
    """Put together what a node of training learns. The same in every rank and after every restart.

    Learns from clips of `learn_splits` that have a feature of this modality and a pseudo-label from every source.
    With more than one label source (MDC) clips are drawn uniformly over the clusters of the first.

    Raises:
        StageError: no clip decodes and has a pseudo-label from every source.
    """
    settings, modality, corpus = task.settings, task.about, task.directory(SHARD)
    rows = ClipRows(corpus, shard_names(corpus), settings.views.modality)
    sources = settings.sources
    labels = {source: task.directory(Node("label", source, task.round)) for source in sources}
    targets = {source: np.full(len(rows), -1, np.int32) for source in sources}
    classes = {source: read_k(labels[source]) for source in sources}
    # A pseudo-label of the other modality does not tell whether this one decodes.
    decodes = np.zeros(len(rows), bool)
    for shard, span in rows.by_shard():  # Keys of one shard at a time: those of all would be most of the memory.
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
            f"{task.node}: no clip to learn from decodes and has a pseudo-label. corpus.learn_splits is "
            f"{settings.learn_splits}; look at the column split of {corpus}/*.parquet."
        )
    steps = max(1, settings.train.clips // settings.train.batch)
    seed = derive_seed(settings.seed, task.round, "train", modality)
    if settings.train.shuffle_labels:
        for source, target in targets.items():
            rng = np.random.default_rng(derive_seed(seed, "shuffle", source))
            target[usable] = rng.permutation(target[usable])
    drawn = draw_clips(targets[sources[0]][usable], steps * settings.train.batch, settings.train.uniform, seed)
    return TrainingTargets(rows, sources, targets, classes, usable[drawn], steps)
