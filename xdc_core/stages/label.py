"""The label stage: assign every clip its cluster as pseudo-label, shard by shard."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shards.corpus.index import label_columns, read_index, shard_names
from shards.errors import ConfigError
from shards.section import hashed_settings
from shards.store.build import Outcome
from shards.store.executor import Advance, run_units
from shards.store.files import part_name
from shards.store.parquet import write_parquet
from shards.store.receipt import Receipt, new_shard, receipts_of
from shards.store.stage import Stage, Task
from xdc_core.clustering.counts import no_counts
from xdc_core.clustering.model import array_file, read_array
from xdc_core.clustering.sinkhorn import assign
from xdc_core.compute.threads import limit_faiss
from xdc_core.config.clustering import LabelSettings
from xdc_core.config.methods import TRUTH, label_sources
from xdc_core.config.schema import Config, RunsOn
from xdc_core.config.selection import SelectSettings
from xdc_core.data.features import source_part
from xdc_core.data.frozen_clusters import label_table, read_clusters
from xdc_core.data.label_scores import Assigned, Labels, count_labels, scores_of
from xdc_core.documents.kmeans import read_kmeans
from xdc_core.documents.scores import FILE_NAME, Balance, write_scores
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run
from xdc_core.runs.task import job_of, task_of_document
from xdc_core.stages.balance import BALANCE, balance, balancing_passes
from xdc_core.stages.cluster import clustered_features
from xdc_core.stages.sample import count_learnable, remove_folder

# Shards of a unit. A shard of 1,000 clips takes about 50 ms, and with 50,000 clusters about a second.
PER_UNIT = 64


@dataclass(frozen=True)
class Labelling:
    """The part of the configuration for the stage. column: the corpus's labels to use as clusters (the baseline)."""

    column: str | None
    label: LabelSettings
    learn_splits: list[str] | None
    select: SelectSettings
    runs_on: RunsOn

    @property
    def balanced(self) -> bool:
        """Return whether the labels are balanced; those of the corpus are used as they are."""
        return self.column is None and self.label.assign != "nearest"

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide the labels."""
        if self.balanced:
            return {"learn_splits": self.learn_splits, **hashed_settings(self.label), **self.select.hashed()}
        return {} if self.column is None else {"column": self.column}


def label(task: Task[Labelling]) -> Outcome:
    """Write `data/<shard>.parquet` with columns key, cluster (int32) and distance (float32), in units of shards.

    The distance of k-means is the Euclidean distance to the centroid. Rows are those of the features, in the same
    order. scores.json holds the sizes, the number of empty clusters, and the agreement with the clusters of the
    previous round and with every label column of the corpus. It is computed from the counts in the receipts.

    With several clusterings (`cluster.heads`) the second one has the columns cluster_1 and distance_1, and so on;
    scores.json has their scores in `clusterings`. Balanced labels (`label.assign`) are the argmax of a transport plan
    between the clips to learn from and the clusters (`xdc_core/clustering/sinkhorn.py`); a clip of another split gets
    the cluster that it would have in this plan. potentials.npy has the plan, scores.json how it was found.

    The baseline has the labels of the corpus as clusters: `cluster` is the position of the clip's label among all
    labels, sorted; `distance` is 0. Clips without a label have no row; scores.json has their number (`unlabelled`), and
    the labels (`classes`).

    Raises:
        ConfigError: the corpus has no label column as the baseline wants it, or fewer than two labels.
    """
    out, corpus = task.out, task.directory(SHARD)
    shards, columns = shard_names(corpus), label_columns(corpus)
    classes = None if task.settings.column is None else _classes(corpus, task.settings.column, columns)
    if classes:
        k, heads = len(classes), 1
    else:
        kmeans = read_kmeans(task.directory(Node("cluster", task.about, task.round)))
        k, heads = kmeans.k, kmeans.heads
    plans = _balance(task, heads, k) if task.settings.balanced else []

    def progress(done: int, total: int, note: str = "") -> None:
        passes = balancing_passes(task.settings.label) if plans else 1
        task.progress((passes - 1) * total + done, passes * total, note)

    job = job_of(task, "xdc_core.stages.label:label_shards", "faiss", columns=columns, classes=classes, k=k)
    sizes = dict.fromkeys(shards, 1)
    run_units(task.executor, job, sizes, PER_UNIT, progress, "shards labelled", with_rejects=False)
    counts, rows, unlabelled = [no_counts(k, columns) for _ in range(heads)], 0, 0
    for receipt in receipts_of(out, shards):
        for own, notes in zip(counts, [receipt.notes, *receipt.notes.get("clusterings", ())], strict=True):
            own.add(notes)
        rows, unlabelled = rows + receipt.rows, unlabelled + receipt.rejects
    scores = scores_of(counts, compared=_before(task) is not None, plans=plans)
    if classes:
        scores = scores.model_copy(update={"classes": classes, "unlabelled": unlabelled})
    write_scores(out, scores)
    remove_folder(out / BALANCE)
    lists = ("sizes", "balance", "clusterings")
    summary = {name: value for name, value in scores.content().items() if name not in lists}
    summary |= ({"heads": heads} if heads > 1 else {}) | ({"assign": "balanced"} if plans else {})
    files = [*map(part_name, shards)]
    files += [array_file("potentials", head) for head in range(len(plans))]
    return Outcome(rows, unlabelled, summary, (*files, FILE_NAME))


def _balance(task: Task[Labelling], heads: int, k: int) -> list[Balance]:
    given = task.settings
    learnable = count_learnable(task.directory(SHARD), task.directories("extract"), given.learn_splits, given.select)
    clusters = task.directory(Node("cluster", task.about, task.round))
    return balance(task, learnable, clusters, (heads, k), given.label, given.runs_on)


def label_shards(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """Store the labels of some shards, and yield their receipts: the work of a unit.

    A receipt's rejects are clips without a label; its notes are the counts for the scores.
    """
    task = task_of_document(LABEL, arguments["task"])
    corpus = task.directory(SHARD)
    before = _before(task)
    if task.settings.column is None:
        labels_of = _clustered(task)
    else:
        labels_of = _true(corpus, task.settings.column, arguments["classes"])
    for shard in shards:
        labels = labels_of(shard)
        counts = [no_counts(arguments["k"], arguments["columns"]) for _ in labels.clusterings]
        count_labels(counts, labels, corpus, shard, before)
        notes, *further = (own.notes() for own in counts)
        with new_shard(task.out, shard) as new:
            write_parquet(new.folder / part_name(shard), label_table(labels))
            new.rows, new.rejects = len(labels.keys), labels.unlabelled
            new.notes = notes | ({"clusterings": further} if further else {})
        yield new.stored


def _before(task: Task[Labelling]) -> Path | None:
    """Return the labels of the round before, with which labels are compared. The baseline's are always the same."""
    compared = task.round > 0 and task.settings.column is None
    return task.directory(Node("label", task.about, task.round - 1)) if compared else None


def _clustered(task: Task[Labelling]) -> Callable[[str], Labels]:
    """Return a function that assigns the clips of a shard to the clusters of the round, in each clustering."""
    features = task.directories("extract")
    clusters = read_clusters(task.directory(Node("cluster", task.about, task.round)))
    heads = range(len(clusters.models) if task.settings.balanced else 0)
    potentials = [read_array(task.out / array_file("potentials", head), "label") for head in heads]
    limit_faiss(task.settings.runs_on)

    def labels_of(shard: str) -> Labels:
        keys, parts = source_part(features, shard)
        points = clusters.preprocess(parts)
        if potentials:
            found = [
                Assigned(*assign(points, model["centroids"], own))
                for model, own in zip(clusters.models, potentials, strict=True)
            ]
        else:
            found = clusters.assign(points)
        return Labels(pa.array(keys, pa.string()), found)

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
        return Labels(labelled["key"].combine_chunks(), [Assigned(distance, cluster)], len(table) - len(labelled))

    return labels_of


def _nodes(config: Config, number: int | None) -> list[Node]:
    sources = label_sources(config.method, config.modalities)
    return [] if number is None else [Node("label", source, number) for source in sources]


def _inputs(config: Config, node: Node) -> list[Node]:
    if node.modality == TRUTH:
        return [SHARD]
    before = [Node("label", node.modality, node.round - 1)] if node.round else []
    return [SHARD, *clustered_features(config, node), Node("cluster", node.modality, node.round), *before]


def _settings(config: Config, node: Node) -> Labelling:
    column = config.truth if node.modality == TRUTH else None
    return Labelling(column, config.label, config.corpus.learn_splits, config.select, config.runs_on)


LABEL: Stage[Config, Run, Labelling] = Stage(
    name="label",
    version=2,
    summary="Assign every clip its pseudo-label from one label source (a modality, joint or truth).",
    unit="clip",
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
