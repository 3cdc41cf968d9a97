"""All measurements of a round, read from the files of its stages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shards.corpus.generation import GENERATIONS
from shards.corpus.index import label_columns
from shards.store.manifest import Manifest, read_manifest
from shards.store.stage import Task
from xdc_core.config.schema import ReportSettings
from xdc_core.documents.kmeans import preprocessing_of, read_kmeans
from xdc_core.documents.metrics import read_metrics
from xdc_core.documents.report import (
    EvaluationRow,
    HistoryRow,
    Report,
    ReportedClustering,
    ReportedEvaluation,
    ReportedNode,
    ReportedSource,
    ReportedTraining,
    read_report,
)
from xdc_core.documents.results import headline, read_results
from xdc_core.documents.scores import Scores, read_scores
from xdc_core.documents.stop import read_decision
from xdc_core.documents.teachers import read_teachers
from xdc_core.report.clusters import cluster_rows
from xdc_core.report.diagnostics import diagnostics
from xdc_core.report.settings import Reporting
from xdc_core.report.shared import measure_shared
from xdc_core.report.tables.changes import changed, count_changes
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run

CURVE = 200  # A report keeps at least this many lines of a longer metrics.jsonl.


def moves_of(task: Task[Reporting]) -> dict[str, np.ndarray]:
    """Count the clips of each label source by their cluster in the round before and now, as `count_changes`.

    Label sources without labels of the round before are left out.

    Raises:
        StageError: a file is missing or damaged.
    """
    found = {}
    for source in _names(task, "cluster"):
        if (before := labels_before(task, source)) is not None:
            k = read_kmeans(task.directory(Node("cluster", source, task.round))).k
            now = task.directory(Node("label", source, task.round))
            found[source] = count_changes(task.directory(SHARD), before, now, k)
    return found


def _names(task: Task[Reporting], stage: str) -> list[str]:
    return [str(node.modality) for node in task.settings.nodes if (node.round, node.stage) == (task.round, stage)]


def gather(task: Task[Reporting], moves: Mapping[str, np.ndarray]) -> Report:
    """Return the measurements of a round. Reads manifests, scores, metrics, labels, and features of some clips.

    moves: of `moves_of`. Label sources, trainings and evaluations are those of the nodes of this round.

    Raises:
        StageError: a file is missing or damaged.
    """
    number, corpus = task.round, task.directory(SHARD)
    own = [node for node in task.settings.nodes if node.round == number]

    before = read_report(task.directory(Node("report", None, number - 1))) if number else None
    sources = {source: _source(task, source, moves.get(source)) for source in _names(task, "cluster")}
    training = {modality: _training(task, modality) for modality in _names(task, "train")}
    evaluations = {name: _evaluation(task, name) for name in _names(task, "eval")}
    decided = Node("teachers", None, number)
    teachers = read_teachers(task.directory(decided)) if decided in own else None
    own_clusters = [name for name in _names(task, "extract") if name in sources]
    shared, kept = measure_shared(task, own_clusters, teachers, before)
    manifests = [(node, read_manifest(task.shown_directory(node))) for node in task.settings.nodes]
    stored = _summary(corpus)
    values = {
        "run": task.root.resolve().name,
        "round": number,
        "method": task.settings.method,
        "trained": bool(training),
        "corpus": stored,
        "nodes": [_node(node, manifest) for node, manifest in manifests if manifest],
        "label_columns": label_columns(corpus),
        "sources": sources,
        "training": training,
        "evaluations": evaluations,
        "learns": {name: list(sources) for name, sources in teachers.learns.items()} if teachers else {},
        "history": [*(before.history if before else ()), *_history(number, sources, training)],
        "evaluation_history": [
            *(before.evaluation_history if before else ()),
            *_evaluation_history(number, evaluations),
        ],
    }
    if shared:
        values["shared_history"] = [*(before.shared_history if before else ()), *shared]
        values["kept_history"] = [*(before.kept_history if before else ()), *kept]
    if GENERATIONS in stored:
        earlier = before.clips_by_round or [before.corpus.get("clips", 0)] * number if before else []
        values["clips_by_round"] = [*earlier, stored["clips"]]
    if _names(task, "stop"):
        values["stop"] = read_decision(task.directory(Node("stop", None, number)))
    if training and number >= task.settings.rounds:
        values["from_first"] = True
    report = Report.model_validate(values)
    return Report.model_validate(values | {"signs": diagnostics(report)})


def round_report(run: Run, number: int) -> Report:
    """Read the report of a round. Raises StageError where it is missing or damaged."""
    return read_report(run.directory(Node("report", None, number)))


def examples_of(settings: ReportSettings, k: int) -> int:
    """Return the number of example clips per cluster: fewer for many clusters, but at least one."""
    return min(settings.examples, max(1, settings.most_examples // k))


def _summary(directory: Path) -> dict[str, Any]:
    manifest = read_manifest(directory)
    return dict(manifest.summary) if manifest else {}


def _node(node: Node, manifest: Manifest) -> ReportedNode:
    return ReportedNode(
        node=node.name,
        stage=node.stage,
        round=node.round,
        rows=manifest.rows,
        rejects=manifest.rejects,
        seconds=manifest.seconds,
        finished=manifest.finished,
        fingerprint=manifest.fingerprint[:12],
    )


def _source(task: Task[Reporting], source: str, moves: np.ndarray | None) -> ReportedSource:
    labels = task.directory(Node("label", source, task.round))
    kmeans, scores = read_kmeans(task.directory(Node("cluster", source, task.round))), read_scores(labels)
    examples = examples_of(task.settings.report, kmeans.k)
    # Written only where they are used: reports of other runs stay as they are.
    used: dict[str, Any] = {}
    if (views := _views(task)) > 1:
        used["views"] = views
    if scores.balance:
        used["balance"] = scores.balance
    if moves is not None:
        used["changed"] = changed(moves)
    if scores.clusterings:
        used["clusterings"] = [_further(further) for further in scores.clusterings]
    return ReportedSource(
        k=kmeans.k,
        sample=kmeans.sample,
        objective=kmeans.objective,
        on=kmeans.on,
        preprocessing=preprocessing_of(kmeans, task.settings.whiten),
        clips=scores.clips,
        empty=scores.empty,
        largest=scores.largest,
        largest_share=scores.largest_share,
        nmi_previous=scores.nmi_previous,
        sizes=scores.sizes,
        agreement=scores.labels,
        clusters=cluster_rows(task.directory(SHARD), labels, kmeans.k, examples),
        **used,
    )


def labels_before(task: Task[Reporting], source: str) -> Path | None:
    """Return the directory of a label source's pseudo-labels of the round before; None if there is none (any more)."""
    if not task.round:
        return None
    directory = task.shown_directory(Node("label", source, task.round - 1))
    return directory if read_manifest(directory) else None


def _views(task: Task[Reporting]) -> int:
    """Return over how many views per clip features were averaged: the same for all modalities."""
    return max(int(_summary(directory).get("views", 1)) for directory in task.directories("extract"))


def _further(scores: Scores) -> ReportedClustering:
    values = {
        "empty": scores.empty,
        "largest": scores.largest,
        "largest_share": scores.largest_share,
        "nmi_previous": scores.nmi_previous,
        "agreement": scores.labels,
    }
    return ReportedClustering.model_validate(values | ({"balance": scores.balance} if scores.balance else {}))


def _training(task: Task[Reporting], modality: str) -> ReportedTraining:
    directory = task.directory(Node("train", modality, task.round))
    lines = read_metrics(directory / "metrics.jsonl")
    return ReportedTraining.model_validate(_summary(directory) | {"curve": lines[:: max(1, len(lines) // CURVE)]})


def _evaluation(task: Task[Reporting], name: str) -> ReportedEvaluation:
    results = read_results(task.directory(Node("eval", name, task.round)))
    return ReportedEvaluation(
        protocol=results.protocol,
        data=results.data,
        modality=results.modality,
        metrics=results.metrics,
        warnings=results.warnings,
        headline=headline(results.protocol, results.metrics),
    )


def _history(
    number: int, sources: dict[str, ReportedSource], training: dict[str, ReportedTraining]
) -> list[HistoryRow]:
    """Return a row per label source: its size, agreements, and the loss of the encoder of the same name."""
    rows = []
    for source, clusters in sources.items():
        row = {"round": number, "source": source, "k": clusters.k, "empty": clusters.empty}
        row |= {"largest_share": clusters.largest_share, "nmi_previous": clusters.nmi_previous}
        for column, scores in clusters.agreement.items():
            row |= {f"nmi:{column}": scores.nmi, f"ami:{column}": scores.ami, f"purity:{column}": scores.purity}
        row["loss"] = training[source].loss if source in training else None
        rows.append(HistoryRow.model_validate(row))
    return rows


def _evaluation_history(number: int, evaluations: dict[str, ReportedEvaluation]) -> list[EvaluationRow]:
    """Return a row per evaluation: its headline metric, None if that is undefined."""
    rows = []
    for name, evaluation in evaluations.items():
        spread = evaluation.metrics.get(evaluation.headline)
        mean, sd = (spread.mean, spread.sd) if spread else (None, None)
        rows.append(EvaluationRow(round=number, evaluation=name, metric=evaluation.headline, mean=mean, sd=sd))
    return rows
