"""The numbers of a study, by cell and round, and their mean and spread by contender."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from shards.store.manifest import read_manifest
from xdc_core.documents.results import read_results
from xdc_core.documents.scores import read_scores
from xdc_core.evaluation.spread import spread
from xdc_core.graph.stages import all_nodes
from xdc_core.study.cells import PROBES, Cell
from xdc_core.study.settings import SCRATCH

Row = dict[str, Any]


def cell_rows(cell: Cell) -> Iterator[Row]:
    """Yield a row per number of every finished round: probes, agreement of clusters with every factor, losses.

    A row has: variant, contender, draw, seed, round, modality, split, metric, factor, value. Clusters are
    compared over the clips of all splits: `all`.
    """
    same = {
        "variant": json.dumps(cell.variant, sort_keys=True),
        "contender": cell.contender,
        "draw": cell.draw,
        "seed": cell.seed,
    }
    run = cell.run
    for node in all_nodes(run.config):
        directory = run.directory(node)
        if node.stage not in ("eval", "label", "train") or (manifest := read_manifest(directory)) is None:
            continue
        at = same | {"round": node.round}
        if node.stage == "eval" and node.modality in PROBES:
            results = read_results(directory)
            label = results.settings["label"].removeprefix("label_")
            for trial in results.trials:
                own = {"modality": results.modality, "split": trial.split, "metric": "probe", "factor": label}
                yield at | own | {"value": trial.metrics["accuracy"]}
        elif node.stage == "label":
            for column, scores in read_scores(directory).labels.items():
                factor = column.removeprefix("label_")
                own = {"modality": node.modality, "split": "all", "factor": factor}
                measured = {"nmi": scores.nmi, "ami": scores.ami, "purity": scores.purity}
                yield from (at | own | {"metric": name, "value": value} for name, value in measured.items())
        elif node.stage == "train":
            own = {"modality": node.modality, "split": "train", "factor": None}
            yield at | own | {"metric": "loss", "value": manifest.summary["loss"]}


def seconds_of(cell: Cell) -> float:
    """Return the CPU seconds of a cell's stages, without those of the corpus and of attempts that were killed."""
    nodes = [node for node in all_nodes(cell.run.config) if node.stage != "shard"]
    manifests = [read_manifest(cell.run.directory(node)) for node in nodes]
    return sum(manifest.cpu_seconds or manifest.seconds for manifest in manifests if manifest)


def summarise(rows: Iterable[Row], last: int) -> list[Row]:
    """Return mean and spread over seeds, by variant, contender, round, modality, split, metric and factor.

    `scratch` is added: round 0, whose encoders are untrained, over every contender's runs, each seed once.
    """
    groups: dict[tuple[Any, ...], dict[tuple[int, int], float]] = defaultdict(dict)
    keys = ("variant", "contender", "round", "modality", "split", "metric", "factor")
    for row in rows:
        if row["value"] is None:
            continue
        of_cell = (row["draw"], row["seed"])
        groups[tuple(row[key] for key in keys)][of_cell] = row["value"]
        if row["round"] == 0 and row["metric"] == "probe":
            # All contenders begin with the same random encoders.
            groups[tuple((row | {"contender": SCRATCH, "round": last})[key] for key in keys)][of_cell] = row["value"]
    return [
        dict(zip(keys, group, strict=True)) | spread(list(values.values())).content()
        for group, values in sorted(groups.items(), key=_order)
    ]


def _order(item: tuple[tuple[Any, ...], Any]) -> tuple[str, ...]:
    return tuple(f"{part:09d}" if isinstance(part, int) else str(part) for part in item[0])
