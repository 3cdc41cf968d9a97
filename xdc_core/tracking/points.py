"""The metrics of a run for trackers: named values over steps, read from the stages' files."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shards.store.commit import partial_directories
from shards.store.manifest import read_manifest
from xdc_core.documents.metrics import read_metrics
from xdc_core.documents.report import Report
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.rounds import as_stopped
from xdc_core.report.gather import round_report
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

ROUND = "round"


@dataclass(frozen=True)
class Point:
    """Values at one step of an axis.

    axis: a modality for the steps of its encoder's training, counted over all rounds, or "round". part: the node of
    the values, and the first digits of its fingerprint.
    """

    axis: str
    step: int
    part: str
    values: dict[str, float]


def points(run: Run) -> Iterator[Point]:
    """Yield all points of a run: per round its trainings, including those in progress, and its report."""
    run = as_stopped(run)
    fingerprints = Fingerprints(run)
    before = dict.fromkeys(run.config.modalities, 0)
    for number in range(run.config.last_round + 1):
        for modality in before:
            node = Node("train", modality, number)
            steps = 0
            for line in _metrics(run, node, fingerprints) if number < run.config.last_round else ():
                steps = int(line["steps"])
                values = {f"{modality}/{name}": float(value) for name, value in _numbers(line)}
                yield Point(modality, before[modality] + int(line["step"]), _part(node, fingerprints), values)
            before[modality] += steps
        node = Node("report", None, number)
        if read_manifest(run.directory(node)):
            values = dict(_of_round(round_report(run, number)))
            yield Point(ROUND, number, _part(node, fingerprints), values)


def _part(node: Node, fingerprints: Fingerprints) -> str:
    return f"{node} {(fingerprints.of(node) or '')[:12]}"


def _metrics(run: Run, node: Node, fingerprints: Fingerprints) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, of the committed directory or of a training in progress."""
    wanted = fingerprints.of(node)
    directory = run.directory(node)
    manifest = read_manifest(directory)
    if manifest is not None and manifest.fingerprint == wanted:
        return read_metrics(directory / "metrics.jsonl")
    begun = partial_directories(directory, wanted) if wanted else []
    return read_metrics(begun[0] / "metrics.jsonl") if begun else []


def _numbers(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        if name not in ("step", "steps") and value is not None:
            yield name, value


def _of_round(report: Report) -> Iterator[tuple[str, float]]:
    for row in report.history:
        if row.round == report.round:
            for name, value in row.content().items():
                if name not in ("round", "source") and value is not None:
                    yield f"clusters_{row.source}/{name.replace(':', '_')}", float(value)
    for evaluation in report.evaluation_history:
        if evaluation.round == report.round and evaluation.mean is not None:
            yield f"evaluations/{evaluation.evaluation}", float(evaluation.mean)
