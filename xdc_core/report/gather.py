"""Everything that was measured in a round, read from what its stages left."""

from collections.abc import Sequence
from typing import Any

from shards.corpus.index import label_columns
from shards.store.manifest import Manifest, read_manifest
from xdc_core.documents.kmeans import read_kmeans
from xdc_core.documents.report import (
    EvaluationRow,
    HistoryRow,
    Report,
    ReportedEvaluation,
    ReportedNode,
    ReportedSource,
    ReportedTraining,
    read_report,
)
from xdc_core.documents.results import headline, read_results
from xdc_core.documents.scores import read_scores
from xdc_core.report.clusters import cluster_rows
from xdc_core.report.diagnostics import diagnostics
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run
from xdc_core.training.metrics import read_metrics

CURVE = 200  # Lines of metrics.jsonl that a report keeps at least, of a training that has more.


def gather(run: Run, number: int, nodes: Sequence[Node]) -> Report:
    """Return a round in numbers. Reads manifests, scores, metrics and labels; features are not touched.

    nodes: what the round has used and done, in the order in which the report lists it. Label sources, trainings and
    evaluations are those of the nodes of this round.

    Raises:
        StageError: a file that is read is missing or damaged, or the report of the round before is.
    """
    own = [node for node in nodes if node.round == number]

    def names(stage: str) -> list[str]:
        return [str(node.modality) for node in own if node.stage == stage]

    before = round_report(run, number - 1) if number else None
    sources = {source: _source(run, number, source) for source in names("cluster")}
    training = {modality: _training(run, number, modality) for modality in names("train")}
    evaluations = {name: _evaluation(run, number, name) for name in names("eval")}
    manifests = [(node, read_manifest(run.directory(node))) for node in nodes]
    values = {
        "run": run.root.resolve().name,
        "round": number,
        "method": run.config.method,
        "trained": number < run.config.rounds,
        "corpus": _summary(run, SHARD),
        "nodes": [_node(node, manifest) for node, manifest in manifests if manifest],
        "label_columns": label_columns(run.corpus),
        "sources": sources,
        "training": training,
        "evaluations": evaluations,
        "history": [*(before.history if before else ()), *_history(number, sources, training)],
        "evaluation_history": [
            *(before.evaluation_history if before else ()),
            *_evaluation_history(number, evaluations),
        ],
    }
    report = Report.model_validate(values)
    return Report.model_validate(values | {"signs": diagnostics(report)})


def round_report(run: Run, number: int) -> Report:
    """Read the report of a round. Raises StageError where it is missing or damaged."""
    return read_report(run.directory(Node("report", None, number)))


def examples_of(run: Run, k: int) -> int:
    """Return how many example clips each of k clusters gets: fewer where there are many clusters, but one."""
    wanted = run.config.report.examples
    return min(wanted, max(1, run.config.report.most_examples // k))


def _summary(run: Run, node: Node) -> dict[str, Any]:
    manifest = read_manifest(run.directory(node))
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


def _source(run: Run, number: int, source: str) -> ReportedSource:
    labels = run.directory(Node("label", source, number))
    kmeans, scores = read_kmeans(run.directory(Node("cluster", source, number))), read_scores(labels)
    return ReportedSource(
        k=kmeans.k,
        sample=kmeans.sample,
        objective=kmeans.objective,
        on=kmeans.on,
        clips=scores.clips,
        empty=scores.empty,
        largest=scores.largest,
        largest_share=scores.largest_share,
        nmi_previous=scores.nmi_previous,
        sizes=scores.sizes,
        agreement=scores.labels,
        clusters=cluster_rows(run, labels, kmeans.k, examples_of(run, kmeans.k)),
    )


def _training(run: Run, number: int, modality: str) -> ReportedTraining:
    node = Node("train", modality, number)
    lines = read_metrics(run.directory(node) / "metrics.jsonl")
    return ReportedTraining.model_validate(_summary(run, node) | {"curve": lines[:: max(1, len(lines) // CURVE)]})


def _evaluation(run: Run, number: int, name: str) -> ReportedEvaluation:
    results = read_results(run.directory(Node("eval", name, number)))
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
    """A row per label source: its size, agreements, and the loss of the encoder of the same name."""
    rows = []
    for source, found in sources.items():
        row = {"round": number, "source": source, "k": found.k, "empty": found.empty}
        row |= {"largest_share": found.largest_share, "nmi_previous": found.nmi_previous}
        for column, scores in found.agreement.items():
            row |= {f"nmi:{column}": scores.nmi, f"ami:{column}": scores.ami, f"purity:{column}": scores.purity}
        row["loss"] = training[source].loss if source in training else None
        rows.append(HistoryRow.model_validate(row))
    return rows


def _evaluation_history(number: int, evaluations: dict[str, ReportedEvaluation]) -> list[EvaluationRow]:
    """A row per evaluation: its headline metric, None where that is not defined."""
    rows = []
    for name, found in evaluations.items():
        spread = found.metrics.get(found.headline)
        mean, sd = (spread.mean, spread.sd) if spread else (None, None)
        rows.append(EvaluationRow(round=number, evaluation=name, metric=found.headline, mean=mean, sd=sd))
    return rows
