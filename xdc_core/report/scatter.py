"""The features of a round in a plane, coloured by cluster and by label."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from shards.corpus.index import label_columns, read_index, shard_names
from shards.store.files import part_path
from shards.store.stage import Task
from xdc_core.clustering.projection import fit_projection
from xdc_core.data.features import read_features
from xdc_core.data.labels import read_labels
from xdc_core.report.charts import scatter_chart
from xdc_core.report.settings import Reporting
from xdc_core.runs.node import SHARD, Node

CLIPS = 2_000  # More cannot be told apart in a small picture.


def scatter_charts(task: Task[Reporting], modalities: Sequence[str]) -> Iterator[tuple[str, Markup]]:
    """Yield captions and charts of each modality's features: the first two principal components of up to CLIPS clips.

    One is coloured by the modality's clusters where it has some, one by the first label column where there is one. The
    clips are those of the first shards: a random choice where the corpus was cut at once, but not of given features,
    nor of a corpus to which clips were appended.

    Raises:
        StageError: a file is missing or damaged.
    """
    corpus = task.directory(SHARD)
    column = next(iter(label_columns(corpus)), None)
    clustered = {node.modality for node in task.settings.nodes if node.stage == "label" and node.round == task.round}
    for name in modalities:
        keys, features, values = list[str](), list[np.ndarray](), dict[str, dict[str, Any]]()
        for shard in shard_names(corpus):
            own, part = read_features(part_path(task.directory(Node("extract", name, task.round)), shard))
            keys += own.tolist()
            features.append(part)
            if name in clustered:
                labels = task.directory(Node("label", name, task.round))
                values.setdefault("cluster", {}).update(
                    zip(*map(np.ndarray.tolist, read_labels(labels, shard)), strict=True)
                )
            if column is not None:
                index = read_index(corpus, shard, ["key", column])
                values.setdefault(column, {}).update(
                    zip(*(index[each].to_pylist() for each in index.column_names), strict=True)
                )
            if len(keys) >= CLIPS:
                break
        points = np.concatenate(features)[:CLIPS] if features else np.zeros((0, 1), np.float32)
        if len(points) < 3:
            continue
        plane = fit_projection(points, "pca", task.settings.seed)(points)
        for what, value_of in values.items():
            colours = [value_of.get(key) for key in keys[: len(points)]]
            yield (
                f"{name}, by {what.removeprefix('label_')}",
                Markup(scatter_chart(plane, colours, f"{name} features by {what}")),
            )
