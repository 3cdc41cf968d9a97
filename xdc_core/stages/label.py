"""The label stage: assign every clip its cluster as pseudo-label, shard by shard."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shards.corpus.index import label_columns, read_index, shard_names
from shards.errors import ConfigError
from shards.store.build import Outcome
from shards.store.parquet import write_parquet
from shards.store.row_count import count_rows_and_rejects
from shards.store.stage import Stage, Task
from xdc_core.clustering.agreement import Contingency, agreement
from xdc_core.clustering.model import read_model
from xdc_core.clustering.preprocess import load_preprocess
from xdc_core.clustering.registry import CLUSTERERS
from xdc_core.compute.threads import limit_faiss
from xdc_core.config.methods import TRUTH, label_sources
from xdc_core.config.schema import Config, RunsOn
from xdc_core.data.features import source_part, source_rows
from xdc_core.data.labels import read_labels
from xdc_core.documents.kmeans import read_kmeans
from xdc_core.documents.scores import FILE_NAME, Agreement, Scores, write_scores
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run
from xdc_core.stages.cluster import clustered_features


@dataclass(frozen=True)
class Labelling:
    """The part of the configuration for the stage. column: the corpus's labels to use as clusters (the baseline)."""

    column: str | None
    runs_on: RunsOn

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide the labels."""
        return {} if self.column is None else {"column": self.column}


def label(task: Task[Labelling]) -> Outcome:
    """Write `<shard>.parquet` with columns key, cluster (int32) and distance (float32); existing shards are kept.

    The distance of k-means is the Euclidean distance to the centroid. Rows are those of the features, in the same
    order. scores.json holds the sizes, the number of empty clusters, and the agreement with the clusters of the
    previous round and with every label column of the corpus.
    """
    if task.settings.column is not None:
        return label_with_truth(task, task.settings.column)
    out, corpus, features = task.out, task.directory(SHARD), task.directories("extract")
    clusters = task.directory(Node("cluster", task.about, task.round))
    fitted = read_kmeans(clusters)
    clusterer, k = CLUSTERERS.find(fitted.algorithm), fitted.k
    model, preprocess = read_model(clusters, clusterer), load_preprocess(clusters / "preprocess.npz")
    limit_faiss(task.settings.runs_on)
    shards = shard_names(corpus)
    for done, shard in enumerate(shards, start=1):
        path = out / f"{shard}.parquet"
        if path.exists():
            continue
        keys, parts = source_part(features, shard)
        points = preprocess(parts)
        distance, cluster = clusterer.assign(model, points, k)
        columns = {
            "key": pa.array(keys, pa.string()),
            "cluster": pa.array(cluster, pa.int32()),
            "distance": pa.array(distance, pa.float32()),
        }
        write_parquet(path, pa.table(columns))
        task.progress(done, len(shards), "shards labelled")
    before = task.directory(Node("label", task.about, task.round - 1)) if task.round else None
    scores = score(corpus, out, before, k)
    write_scores(out, scores)
    sizes = {shard: source_rows(features, shard) for shard in shards}
    rows, _ = count_rows_and_rejects(out, "label", sizes)
    return Outcome(rows, 0, _without_sizes(scores), _files(shards))


def label_with_truth(task: Task[Labelling], column: str) -> Outcome:
    """Write the labels of the corpus as clusters, for the baseline, with the files and columns of `label`.

    `cluster` is the position of the clip's label among all labels, sorted; `distance` is 0. Clips without a label have
    no row; scores.json has their number (`unlabelled`), and the labels (`classes`).

    Raises:
        ConfigError: the corpus has no such column, or fewer than two labels.
    """
    out, corpus = task.out, task.directory(SHARD)
    shards = shard_names(corpus)
    if column not in label_columns(corpus):
        available = ", ".join(label_columns(corpus)) or "none"
        raise ConfigError(f"truth is {column!r}, but {corpus} has no such label column. There are: {available}.")
    tables = {shard: read_index(corpus, shard, ["key", column]) for shard in shards}
    names = sorted({name for table in tables.values() for name in table[column].to_pylist() if name is not None})
    if len(names) < 2:
        raise ConfigError(f"truth: the column {column!r} of {corpus} has {len(names)} labels. At least two are needed.")
    number = {name: position for position, name in enumerate(names)}
    rows = clips = 0
    sizes = {}
    for done, (shard, table) in enumerate(tables.items(), start=1):
        labelled = table.filter(table[column].is_valid())
        columns = {
            "key": labelled["key"].combine_chunks(),
            "cluster": pa.array([number[name] for name in labelled[column].to_pylist()], pa.int32()),
            "distance": pa.array(np.zeros(len(labelled)), pa.float32()),
        }
        write_parquet(out / f"{shard}.parquet", pa.table(columns))
        rows, clips = rows + len(labelled), clips + len(table)
        sizes[shard] = len(labelled)
        task.progress(done, len(shards), "shards labelled")
    scores = score(corpus, out, None, len(names)).model_copy(update={"classes": names, "unlabelled": clips - rows})
    write_scores(out, scores)
    count_rows_and_rejects(out, "label", sizes)
    return Outcome(rows, clips - rows, _without_sizes(scores), _files(shards))


def _without_sizes(scores: Scores) -> dict[str, Any]:
    return {name: value for name, value in scores.content().items() if name != "sizes"}


def _files(shards: list[str]) -> tuple[str, ...]:
    return (*(f"{shard}.parquet" for shard in shards), FILE_NAME)


def score(corpus: Path, directory: Path, before: Path | None, k: int) -> Scores:
    """Read the shards, and return sizes and the agreement with the previous round and with the corpus's labels."""
    names = label_columns(corpus)
    with_labels = {name: Contingency() for name in names}
    with_before = Contingency()
    sizes = np.zeros(k, np.int64)
    for shard in shard_names(corpus):
        keys, clusters = read_labels(directory, shard)
        sizes += np.bincount(clusters, minlength=k)
        index = read_index(corpus, shard, ["key", *names])
        row_of = {key: row for row, key in enumerate(index["key"].to_pylist())}
        rows = [row_of[key] for key in keys]
        for name in names:
            column = index[name].to_pylist()
            with_labels[name].add(clusters, [column[row] for row in rows])
        if before is not None:
            earlier = dict(zip(*(values.tolist() for values in read_labels(before, shard)), strict=True))
            with_before.add(clusters, [str(earlier[key]) if key in earlier else None for key in keys])
    return Scores(
        k=k,
        clips=int(sizes.sum()),
        empty=int((sizes == 0).sum()),
        largest=int(sizes.max()),
        largest_share=round(float(sizes.max() / max(1, sizes.sum())), 6),
        nmi_previous=agreement(with_before)["nmi"] if before is not None else None,
        labels={name: Agreement(**agreement(counts)) for name, counts in with_labels.items()},
        sizes=sizes.tolist(),
    )


def _nodes(config: Config, number: int | None) -> list[Node]:
    sources = label_sources(config.method, config.modalities)
    return [] if number is None else [Node("label", source, number) for source in sources]


def _inputs(config: Config, node: Node) -> list[Node]:
    if node.modality == TRUTH:
        return [SHARD]
    before = [Node("label", node.modality, node.round - 1)] if node.round else []
    return [SHARD, *clustered_features(config, node), Node("cluster", node.modality, node.round), *before]


def _settings(config: Config, node: Node) -> Labelling:
    return Labelling(config.truth if node.modality == TRUTH else None, config.runs_on)


LABEL: Stage[Config, Run, Labelling] = Stage(
    name="label",
    version=2,
    summary="Assign every clip its pseudo-label from one label source (a modality, joint or truth).",
    folder="labels",
    of="modality",
    each_round=True,
    library="faiss",
    modules=("faiss", "xdc_core.clustering.kmeans", "sklearn.metrics.cluster"),
    nodes=_nodes,
    inputs=_inputs,
    settings=_settings,
    work=label,
)
