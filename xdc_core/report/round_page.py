"""The page of a round: clusters with example clips, charts, and stages."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from shards.corpus.seen import sources_root
from shards.indexing.generation_view import place_of
from shards.store.stage import Task
from xdc_core.clustering.preprocess import load_preprocess
from xdc_core.clustering.registry import KMEANS
from xdc_core.config.methods import JOINT
from xdc_core.documents.kmeans import read_kmeans
from xdc_core.documents.report import Report, ReportedNode, ReportedSource
from xdc_core.encoders.file import FILE_NAME as ENCODER
from xdc_core.report.charts import GREY, SCORES, Line, cross_chart, lines_chart, sizes_chart, source_colour
from xdc_core.report.clips import page_clips
from xdc_core.report.filters import data_address, first_filters, matrix, stored_weights, tiles, time_filters
from xdc_core.report.gather import labels_before
from xdc_core.report.page import history_charts, render
from xdc_core.report.scatter import scatter_charts
from xdc_core.report.settings import Reporting
from xdc_core.report.tables.changes import largest_moves, usual_clusters
from xdc_core.report.tables.cross import cross_table
from xdc_core.report.tables.embedded import embedded
from xdc_core.report.tables.members import Labelled
from xdc_core.report.tables.similar import similar_clips
from xdc_core.runs.node import SHARD, Node, encoder_node

FILE_NAME = "report.html"
MOST = 4  # Clusters of the other modality in a row of the cross-table.


def round_page(
    task: Task[Reporting],
    report: Report,
    unseen: Mapping[str, str],
    moves: Mapping[str, np.ndarray],
    nodes_before: Sequence[ReportedNode],
) -> str:
    """Return the HTML of a round's page.

    unseen: example clip -> why its pictures or sound cannot be shown. moves: of `moves_of`. nodes_before: the nodes of
    the report that this one replaces; unchanged nodes are marked as reused.
    """
    examples, own = example_keys(report), labelled(task, report)
    labels = {name: source.labels for name, source in own.items()}
    corpus = task.directory(SHARD)
    extracted = [str(node.modality) for node in _own(task) if node.stage == "extract"]
    features = {name: task.directory(Node("extract", name, task.round)) for name in extracted}
    similar = similar_clips(corpus, features, examples)
    found = {key for by_key in similar.values() for near in by_key.values() for key, _ in near}
    gallery = {
        "round": task.round,
        "label": (report.first_label or "").removeprefix("label_"),
        "root": _source_address(task),
        "run": task.root.resolve().name,
        "similar": similar,
        "usual": {name: usual_clusters(matrix) for name, matrix in moves.items()},
        "sources": {
            name: [cluster.content() for cluster in source.clusters] for name, source in report.sources.items()
        },
        "clips": page_clips(corpus, labels, examples | found, report.corpus.get("clips", 0)),
        "media": {key: unseen.get(key, "") for key in sorted(examples)},
    }
    return render(
        "round.html",
        **report.content(),
        gallery=embedded(gallery),
        growth=report.growth,
        charts=history_charts(report),
        source_charts={name: _source_charts(task, name, source) for name, source in report.sources.items()},
        training_charts=dict(_training_charts(report)),
        cross=list(_cross_charts(corpus, labels, report)),
        l2=all(map(partial(_unit_length, task), report.sources)),
        moves={name: largest_moves(matrix) for name, matrix in moves.items()},
        scatter=dict(scatter_charts(task, extracted)),
        filters=dict(_filters(task)),
        reused=[node.node for node in report.nodes if node in nodes_before],
        slowest=max((node.seconds for node in report.nodes), default=0) or 1,
    )


def labelled(task: Task[Reporting], report: Report) -> dict[str, Labelled]:
    """Return the pseudo-labels of each label source."""
    return {
        name: Labelled(task.directory(Node("label", name, task.round)), labels_before(task, name), source.k)
        for name, source in report.sources.items()
    }


def _source_address(task: Task[Reporting]) -> str:
    """Return the address of the folder of the sources, ending in a slash; "" if it is not known.

    It is relative to the page, so that the page tells nothing of the machine, and stays right if all is moved together.
    """
    if task.settings.videos is None:
        return ""
    videos = (task.root / task.settings.videos).resolve()
    root = sources_root(place_of(task.directory(SHARD)), videos, task.settings.layout)
    return "" if root is None else f"{quote(os.path.relpath(root, task.target.resolve()))}/"


def _own(task: Task[Reporting]) -> list[Node]:
    return [node for node in task.settings.nodes if node.round == task.round]


def example_keys(report: Report) -> set[str]:
    """Return the keys of the example clips of all clusters."""
    return {key for source in report.sources.values() for cluster in source.clusters for key in cluster.examples}


def _source_charts(task: Task[Reporting], name: str, source: ReportedSource) -> list[Markup]:
    colour, charts = source_colour(name), []
    charts.append(sizes_chart(source.sizes, colour))
    if source.objective:
        line = Line("objective", range(1, len(source.objective) + 1), source.objective, colour)
        algorithm = _algorithm(task, name)
        title = f"Objective of {algorithm}"
        charts.append(lines_chart([line], f"iteration of {algorithm}", "objective", title, bottom=None))
    return [Markup(text) for text in charts]


def _unit_length(task: Task[Reporting], source: str) -> bool:
    """Return whether the features of a label source were scaled to length 1 before they were clustered."""
    return load_preprocess(task.directory(Node("cluster", source, task.round)) / "preprocess.npz").l2


def _algorithm(task: Task[Reporting], source: str) -> str:
    """Return the name of the clustering algorithm of a label source, as the page shows it."""
    name = read_kmeans(task.directory(Node("cluster", source, task.round))).algorithm
    return "k-means" if name == KMEANS.name else name


def _training_charts(report: Report) -> Iterator[tuple[str, list[Markup]]]:
    for name, training in report.training.items():
        curve, colour = training.curve, source_colour(name)
        steps = [line["step"] for line in curve]
        loss = Line("loss", steps, [line["loss"] for line in curve], colour)
        accuracies = [
            Line(key, steps, [line.get(key) for line in curve], GREY if number else colour)
            for number, key in enumerate(key for key in curve[0] if key.startswith("accuracy_"))
        ]
        rate = Line("learning rate", steps, [line["lr"] for line in curve], colour)
        yield (
            name,
            [
                Markup(lines_chart([loss], "step", "loss", f"Loss of {name}")),
                Markup(lines_chart(accuracies, "step", "accuracy", f"Accuracy of {name}", least=SCORES)),
                Markup(lines_chart([rate], "step", "learning rate", f"Learning rate of {name}")),
            ],
        )


@dataclass(frozen=True)
class Cross:
    """The clusters of label source `first` against those of `second`. rows: number and size of each cluster of `first`
    in the order of the chart, and the clusters of `second` that have most of its clips, each with its share.
    """

    first: str
    second: str
    chart: Markup
    rows: list[tuple[int, int, list[tuple[int, float]]]]


def _cross_charts(corpus: Path, labels: Mapping[str, Path], report: Report) -> Iterator[Cross]:
    """Yield, for every two modalities, the clusters of one against those of the other.

    Columns are ordered so that agreement is on the diagonal.
    """
    for first, second in combinations([name for name in report.sources if name != JOINT], 2):
        shape = (report.sources[first].k, report.sources[second].k)
        counts = cross_table(corpus, labels[first], labels[second], shape)
        order = np.argsort(-counts.sum(axis=1), kind="stable")
        counts = counts[order]
        best = counts.argmax(axis=0)
        across = np.lexsort((-counts.max(axis=0), best))
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        downwards = (f"{first} clusters, largest above", order.tolist())
        chart = cross_chart(shares[:, across], downwards, (f"{second} clusters", across.tolist()))
        rows = []
        for row, cluster in enumerate(order):
            most = [of for of in np.argsort(-counts[row], kind="stable")[:MOST] if counts[row, of]]
            rows.append((int(cluster), int(counts[row].sum()), [(int(of), float(shares[row, of])) for of in most]))
        yield Cross(first, second, Markup(chart), rows)


def _filters(task: Task[Reporting]) -> Iterator[tuple[str, str]]:
    """Yield captions and pictures of the first layers of the encoders at the start of the round.

    Encoders whose layers have other names are skipped.
    """
    for modality in [str(node.modality) for node in task.settings.nodes if node.stage == "extract"]:
        encoder = encoder_node(modality, task.round)
        if encoder not in task.inputs:  # The features are given.
            continue
        weights = stored_weights(task.directory(encoder) / ENCODER)
        if (filters := first_filters(weights)) is not None:
            yield f"{modality}: first layer, in space", data_address(tiles(filters))
        if (times := time_filters(weights)) is not None:
            yield (
                f"{modality}: first layer, in time (a row per plane; before, at and after a frame)",
                data_address(matrix(times)),
            )
