"""The numbers of a study, by cell and round, and their mean and spread by contender."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from shards.store.manifest import read_manifest
from xdc_core.documents.results import read_results
from xdc_core.documents.scores import Scores, read_scores
from xdc_core.evaluation.spread import spread
from xdc_core.runs.node import Node
from xdc_core.study.cells import Cell, nodes_of
from xdc_core.study.contenders import SCRATCH
from xdc_core.study.measures import Measure, factor_of

Row = dict[str, Any]

KEYS = ("variant", "contender", "round", "modality", "split", "metric", "factor")
# They are of a training, or of the difference to an earlier round: untrained encoders have none.
OF_TRAINING = ("loss", "nmi_previous")
# What the splits of the recordings to probe on, and of own corpora, are called in the results.
VALIDATION, TEST = "validation", "test"


def cell_rows(cell: Cell, validation: str | None = VALIDATION, test: str = TEST) -> Iterator[Row]:
    """Yield a row per number of every finished round: evaluations, agreement of clusters with every factor, losses.

    A row has: variant, contender, draw, seed, round, modality, split, metric, factor, value. Clusters are compared over
    the clips of all splits: `all`. The splits named `validation` and `test` have these names in the rows, however the
    clips call them.
    """
    same = {
        "variant": json.dumps(cell.variant, sort_keys=True),
        "contender": cell.contender,
        "draw": cell.draw,
        "seed": cell.seed,
    }
    run, names = cell.run, {validation: VALIDATION, test: TEST}
    for node in nodes_of(cell):
        directory = run.directory(node)
        if node.stage not in ("eval", "label", "train") or (manifest := read_manifest(directory)) is None:
            continue
        at = same | {"round": node.round}
        if node.stage == "eval" and (measure := cell.measures.get(str(node.modality))):
            for row in _of_evaluation(cell, node, measure):
                yield at | row | {"split": names.get(row["split"], row["split"])}
        elif node.stage == "label":
            yield from (at | {"modality": node.modality} | row for row in _of_clusters(read_scores(directory)))
        elif node.stage == "train":
            own = {"modality": node.modality, "split": "train", "factor": None}
            yield at | own | {"metric": "loss", "value": manifest.summary["loss"]}


def _of_evaluation(cell: Cell, node: Node, measure: Measure) -> Iterator[Row]:
    for trial in read_results(cell.run.directory(node)).trials:
        at = {"modality": measure.modality, "split": trial.split, "factor": measure.factor}
        if measure.metric is not None:
            yield at | {"metric": measure.metric, "value": trial.metrics["accuracy"]}
        else:
            yield from (at | {"metric": name, "value": value} for name, value in trial.metrics.items())


def _of_clusters(scores: Scores) -> Iterator[Row]:
    for column, agreement in scores.labels.items():
        own: Row = {"split": "all", "factor": factor_of(column)}
        measured = {"nmi": agreement.nmi, "ami": agreement.ami, "purity": agreement.purity}
        yield from (own | {"metric": name, "value": value} for name, value in measured.items())
    own = {"split": "all", "factor": None}
    sizes = {"nmi_previous": scores.nmi_previous, "empty": scores.empty, "largest_share": scores.largest_share}
    yield from (own | {"metric": name, "value": value} for name, value in sizes.items())


def seconds_of(cell: Cell) -> float:
    """Return the CPU seconds of a cell's stages, without those of clips that runs share and of killed attempts."""
    nodes = [node for node in nodes_of(cell) if node.stage not in ("shard", "data")]
    manifests = [read_manifest(cell.run.directory(node)) for node in nodes]
    return sum(manifest.cpu_seconds or manifest.seconds for manifest in manifests if manifest)


def summarise(rows: Iterable[Row], last: int, other_untrained: Collection[str] = ()) -> list[Row]:
    """Return mean and spread over seeds, by variant, contender, round, modality, split, metric and factor.

    `scratch` is added as round `last`: round 0, whose encoders are untrained, over every contender's runs, each seed
    once. It leaves out `other_untrained`: contenders that begin with other encoders or features.
    """
    groups: dict[tuple[Any, ...], dict[tuple[int, int], float]] = defaultdict(dict)
    for row in rows:
        if row["value"] is None:
            continue
        of_cell = (row["draw"], row["seed"])
        groups[tuple(row[key] for key in KEYS)][of_cell] = row["value"]
        if row["round"] == 0 and row["metric"] not in OF_TRAINING and row["contender"] not in other_untrained:
            # These contenders begin with the same random encoders.
            untrained = row | {"contender": SCRATCH, "round": last}
            groups[tuple(untrained[key] for key in KEYS)].setdefault(of_cell, row["value"])
    return [
        dict(zip(KEYS, group, strict=True)) | spread(list(values.values())).content()
        for group, values in sorted(groups.items(), key=_order)
    ]


def _order(item: tuple[tuple[Any, ...], Any]) -> tuple[str, ...]:
    return tuple(f"{part:09d}" if isinstance(part, int) else str(part) for part in item[0])
