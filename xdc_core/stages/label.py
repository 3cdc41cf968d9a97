"""The label stage: assign every clip its cluster as pseudo-label, shard by shard."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shards.corpus.index import label_columns, read_index, shard_names
from shards.errors import ConfigError
from shards.store.build import Outcome
from shards.store.executor import Advance, run_units
from shards.store.parquet import write_parquet
from shards.store.receipt import Receipt, new_shard, receipts_of
from shards.store.stage import Stage, Task
from xdc_core.clustering.agreement import agreement
from xdc_core.clustering.counts import ClusterCounts, no_counts
from xdc_core.clustering.model import read_model
from xdc_core.clustering.preprocess import load_preprocess
from xdc_core.clustering.registry import CLUSTERERS
from xdc_core.compute.threads import limit_faiss
from xdc_core.config.methods import TRUTH, label_sources
from xdc_core.config.schema import Config, RunsOn
from xdc_core.data.features import source_part
from xdc_core.data.labels import read_labels
from xdc_core.documents.kmeans import read_kmeans
from xdc_core.documents.scores import FILE_NAME, Agreement, Scores, write_scores
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run
from xdc_core.runs.task import job_of, task_of_document
from xdc_core.stages.cluster import clustered_features

# Shards of a unit. A shard of 1,000 clips takes about 50 ms, and with 50,000 clusters about a second.
PER_UNIT = 64


@dataclass(frozen=True)
class Labelling:
    """The part of the configuration for the stage. column: the corpus's labels to use as clusters (the baseline)."""

    column: str | None
    runs_on: RunsOn

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide the labels."""
        return {} if self.column is None else {"column": self.column}


@dataclass(frozen=True)
class Labels:
    """The labels of a shard's clips: keys [n], cluster int [n], distance float32 [n]; and the clips without a label."""

    keys: pa.Array
    cluster: np.ndarray
    distance: np.ndarray
    unlabelled: int = 0


def label(task: Task[Labelling]) -> Outcome:
    """Write `<shard>.parquet` with columns key, cluster (int32) and distance (float32), in units of several shards.

    The distance of k-means is the Euclidean distance to the centroid. Rows are those of the features, in the same
    order. scores.json holds the sizes, the number of empty clusters, and the agreement with the clusters of the
    previous round and with every label column of the corpus. It is computed from the counts in the receipts.

    The baseline has the labels of the corpus as clusters: `cluster` is the position of the clip's label among all
    labels, sorted; `distance` is 0. Clips without a label have no row; scores.json has their number (`unlabelled`), and
    the labels (`classes`).

    Raises:
        ConfigError: the corpus has no label column as the baseline wants it, or fewer than two labels.
    """
    out, corpus = task.out, task.directory(SHARD)
    shards, columns = shard_names(corpus), label_columns(corpus)
    classes = None if task.settings.column is None else _classes(corpus, task.settings.column, columns)
    k = len(classes) if classes else read_kmeans(task.directory(Node("cluster", task.about, task.round))).k
    job = job_of(task, "xdc_core.stages.label:label_shards", "faiss", columns=columns, classes=classes, k=k)
    sizes = dict.fromkeys(shards, 1)
    run_units(task.executor, job, sizes, PER_UNIT, task.progress, "shards labelled", with_rejects=False)
    counts, rows, unlabelled = no_counts(k, columns), 0, 0
    for receipt in receipts_of(out, shards):
        counts.add(receipt.notes)
        rows, unlabelled = rows + receipt.rows, unlabelled + receipt.rejects
    scores = _scores(counts, compared=_before(task) is not None)
    if classes:
        scores = scores.model_copy(update={"classes": classes, "unlabelled": unlabelled})
    write_scores(out, scores)
    summary = {name: value for name, value in scores.content().items() if name != "sizes"}
    return Outcome(rows, unlabelled, summary, (*(f"{shard}.parquet" for shard in shards), FILE_NAME))


def label_shards(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """Store the labels of some shards, and yield their receipts: the work of a unit.

    A receipt's rejects are clips without a label; its notes are the counts for the scores.
    """
    task = task_of_document(LABEL, arguments["task"])
    corpus = task.directory(SHARD)
    before = _before(task)
    if task.settings.column is None:
        labels_of = _nearest(task, arguments["k"])
    else:
        labels_of = _true(corpus, task.settings.column, arguments["classes"])
    for shard in shards:
        labels = labels_of(shard)
        counts = no_counts(arguments["k"], arguments["columns"])
        _count(counts, labels, corpus, shard, before)
        table = {
            "key": labels.keys,
            "cluster": pa.array(labels.cluster, pa.int32()),
            "distance": pa.array(labels.distance, pa.float32()),
        }
        with new_shard(task.out, shard) as new:
            write_parquet(new.folder / f"{shard}.parquet", pa.table(table))
            new.rows, new.rejects, new.notes = len(labels.keys), labels.unlabelled, counts.notes()
        yield new.stored


def _before(task: Task[Labelling]) -> Path | None:
    """Return the labels of the round before, with which labels are compared. The baseline's are always the same."""
    compared = task.round > 0 and task.settings.column is None
    return task.directory(Node("label", task.about, task.round - 1)) if compared else None


def _nearest(task: Task[Labelling], k: int) -> Callable[[str], Labels]:
    """Return a function that assigns the clips of a shard to the clusters of the round."""
    clusters, features = task.directory(Node("cluster", task.about, task.round)), task.directories("extract")
    clusterer = CLUSTERERS.find(read_kmeans(clusters).algorithm)
    model, preprocess = read_model(clusters, clusterer), load_preprocess(clusters / "preprocess.npz")
    limit_faiss(task.settings.runs_on)

    def labels_of(shard: str) -> Labels:
        keys, parts = source_part(features, shard)
        distance, cluster = clusterer.assign(model, preprocess(parts), k)
        return Labels(pa.array(keys, pa.string()), cluster, distance)

    return labels_of


def _classes(corpus: Path, column: str, columns: list[str]) -> list[str]:
    """Return the labels in a column of the corpus, sorted.

    Raises:
        ConfigError: the corpus has no such column, or fewer than two labels.
    """
    if column not in columns:
        available = ", ".join(columns) or "none"
        raise ConfigError(f"truth is {column!r}, but {corpus} has no such label column. There are: {available}.")
    found: set[str | None] = set()
    for shard in shard_names(corpus):
        found.update(read_index(corpus, shard, [column])[column].unique().to_pylist())
    classes = sorted(name for name in found if name is not None)
    if len(classes) < 2:
        raise ConfigError(
            f"truth: the column {column!r} of {corpus} has {len(classes)} labels. At least two are needed."
        )
    return classes


def _true(corpus: Path, column: str, classes: list[str]) -> Callable[[str], Labels]:
    """Return a function that reads a shard's labels from the corpus: the position of each among all classes."""
    number = {name: position for position, name in enumerate(classes)}

    def labels_of(shard: str) -> Labels:
        table = read_index(corpus, shard, ["key", column])
        labelled = table.filter(table[column].is_valid())
        cluster = np.array([number[name] for name in labelled[column].to_pylist()], np.int64)
        distance = np.zeros(len(labelled), np.float32)
        return Labels(labelled["key"].combine_chunks(), cluster, distance, len(table) - len(labelled))

    return labels_of


def _count(counts: ClusterCounts, labels: Labels, corpus: Path, shard: str, before: Path | None) -> None:
    """Count a shard's clips. before: the labels of the previous round."""
    keys, clusters = labels.keys.to_pylist(), labels.cluster
    counts.sizes += np.bincount(clusters, minlength=len(counts.sizes))
    index = read_index(corpus, shard, ["key", *counts.labels])
    row_of = {key: row for row, key in enumerate(index["key"].to_pylist())}
    rows = [row_of[key] for key in keys]
    for name, contingency in counts.labels.items():
        column = index[name].to_pylist()
        contingency.add(clusters, [column[row] for row in rows])
    if before is not None:
        earlier = dict(zip(*(values.tolist() for values in read_labels(before, shard)), strict=True))
        counts.previous.add(clusters, [str(earlier[key]) if key in earlier else None for key in keys])


def _scores(counts: ClusterCounts, compared: bool) -> Scores:
    """Return sizes and the agreement with the corpus's labels and, if it was `compared`, with the round before."""
    sizes = counts.sizes
    return Scores(
        k=len(sizes),
        clips=int(sizes.sum()),
        empty=int((sizes == 0).sum()),
        largest=int(sizes.max()),
        largest_share=round(float(sizes.max() / max(1, sizes.sum())), 6),
        nmi_previous=agreement(counts.previous)["nmi"] if compared else None,
        labels={name: Agreement(**agreement(found)) for name, found in counts.labels.items()},
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
