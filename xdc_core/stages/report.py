"""The report stage: a round in numbers, as a page, and to look at and listen to."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from shards.errors import StageError
from shards.progress import Progress
from shards.store.build import Outcome
from shards.store.checked_read import read_stored_json
from shards.store.files import write_json, write_text
from xdc_core.config.load import FILE_NAME
from xdc_core.config.write import commented_yaml
from xdc_core.encoders.file import FILE_NAME as ENCODER
from xdc_core.report.charts import COLOURS, GREY, Line, cross_chart, lines_chart, sizes_chart
from xdc_core.report.clips import page_clips, write_examples
from xdc_core.report.clusters import cross_table
from xdc_core.report.facts import gather
from xdc_core.report.filters import data_address, first_filters, matrix, stored_weights, tiles, time_filters
from xdc_core.report.overview import write_overview
from xdc_core.report.page import embedded, history_charts, render
from xdc_core.runs.node import Node, encoder_node
from xdc_core.runs.run import Run

MEDIA = "media"


def report(run: Run, node: Node, out: Path, progress: Progress) -> Outcome:
    """Write report.json (everything measured), report.html (the same as a page), media/ (of every cluster's nearest
    clips: pictures, spectrogram and sound), and xdc.yaml: the whole configuration, defaults filled in, as it was when
    the round was reported. Also writes the run's overview.html anew.
    """
    assert node.round is not None
    facts = gather(run, node.round)
    before = run.directory(Node("report", None, node.round - 1)) / MEDIA if node.round else Path("none")
    examples = {key for source in facts["sources"].values() for row in source["clusters"] for key in row["examples"]}
    unseen = write_examples(run, examples, out / MEDIA, before, progress)
    write_json(out / "report.json", facts)
    write_text(
        out / FILE_NAME, commented_yaml(run.config, f"The configuration with which round {node.round} was done.")
    )
    write_text(out / "report.html", round_page(run, facts, examples, unseen, _nodes_before(run, node)))
    write_overview(run, facts)
    summary = {source: found["agreement"] for source, found in facts["sources"].items()}
    return Outcome(len(facts["nodes"]), 0, {"agreement": summary, "examples": len(examples)})


def _nodes_before(run: Run, node: Node) -> list[dict[str, Any]]:
    """The nodes of the report that this one takes the place of; none where there is none."""
    path = run.directory(node) / "report.json"
    if not path.exists():
        return []
    try:
        return list(read_stored_json(path, "report")["nodes"])
    except StageError:
        return []  # A damaged report is what one makes anew.


def round_page(
    run: Run, facts: dict[str, Any], examples: set[str], unseen: dict[str, str], nodes_before: list[dict[str, Any]]
) -> str:
    """The page of a round. Nodes that stand among `nodes_before` are marked as reused."""
    sources = list(facts["sources"])
    clips = page_clips(run, facts["round"], sources, examples, facts["corpus"].get("clips", 0))
    gallery = {
        "sources": {name: found["clusters"] for name, found in facts["sources"].items()},
        "clips": clips,
        "media": {key: unseen.get(key, "") for key in sorted(examples)},
    }
    return render(
        "round.html",
        **facts,
        gallery=embedded(gallery),
        charts=history_charts(facts),
        source_charts={name: _of_source(name, found) for name, found in facts["sources"].items()},
        training_charts=dict(_of_training(facts)),
        cross=_cross(run, facts),
        filters=dict(_filters(run, facts["round"])),
        reused=[row["node"] for row in facts["nodes"] if row in nodes_before],
        slowest=max((row["seconds"] for row in facts["nodes"]), default=0) or 1,
    )


def _of_source(name: str, found: dict[str, Any]) -> list[Markup]:
    colour, objective = COLOURS.get(name, GREY), found["objective"]
    line = Line("objective", range(1, len(objective) + 1), objective, colour)
    charts = [lines_chart([line], "iteration of k-means", "objective", "Objective of k-means", bottom=None)]
    return [Markup(text) for text in (sizes_chart(found["sizes"], colour), *charts)]


def _of_training(facts: dict[str, Any]) -> Any:
    for name, found in facts["training"].items():
        curve, colour = found["curve"], COLOURS.get(name, GREY)
        steps = [line["step"] for line in curve]
        loss = Line("loss", steps, [line["loss"] for line in curve], colour)
        hits = [
            Line(key, steps, [line.get(key) for line in curve], GREY if place else colour)
            for place, key in enumerate(key for key in curve[0] if key.startswith("accuracy_"))
        ]
        rate = Line("learning rate", steps, [line["lr"] for line in curve], colour)
        yield (
            name,
            [
                Markup(lines_chart([loss], "step", "loss", f"Loss of {name}")),
                Markup(lines_chart(hits, "step", "accuracy", f"Accuracy of {name}")),
                Markup(lines_chart([rate], "step", "learning rate", f"Learning rate of {name}")),
            ],
        )


def _cross(run: Run, facts: dict[str, Any]) -> Markup | None:
    """The clusters of each modality against those of each later one; None where fewer than two are clustered."""
    clustered = [name for name in run.config.modalities if name in facts["sources"]]
    charts = [_cross_of_pair(run, facts, *pair) for pair in combinations(clustered, 2)]
    return Markup("\n".join(charts)) if charts else None


def _cross_of_pair(run: Run, facts: dict[str, Any], first: str, second: str) -> str:
    """A chart in which columns are ordered so that agreement lies on the diagonal."""
    shape = (facts["sources"][first]["k"], facts["sources"][second]["k"])
    rows, columns = (run.directory(Node("label", name, facts["round"])) for name in (first, second))
    counts = cross_table(run, rows, columns, shape)
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    counts = counts[order]
    best = counts.argmax(axis=0)
    counts = counts[:, np.lexsort((-counts.max(axis=0), best))]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return cross_chart(shares, f"{first} clusters, largest above", f"{second} clusters")


def _filters(run: Run, number: int) -> Any:
    """Pictures of the first layers of the encoders that the round began with, by caption."""
    for modality in run.config.modalities:
        weights = stored_weights(run.directory(encoder_node(modality, number)) / ENCODER)
        if (found := first_filters(weights)) is not None:
            yield f"{modality}: first layer, in space", data_address(tiles(found))
        if (times := time_filters(weights)) is not None:
            yield (
                f"{modality}: first layer, in time (a row a plane; before, at and after a frame)",
                data_address(matrix(times)),
            )
