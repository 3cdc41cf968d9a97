"""The artifacts of a round on Prefect's pages. report.json and report.html have the same content."""

import itertools
import re
from base64 import b64encode
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

from shards.store.files import part_path
from shards.store.manifest import read_manifest
from xdc_core.documents.report import Report, read_report
from xdc_core.report.clusters import purest_first
from xdc_core.report.page import history_charts
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

SHOWN = 0.005  # A smaller share would be shown as 0 %.
PAGE = 50


def artifact_key(run_name: str, what: str) -> str:
    """Return a key of lowercase letters, digits and dashes. A run's rounds share it and so form a history."""
    return re.sub(r"[^a-z0-9]+", "-", f"xdc-{run_name}-{what}".lower()).strip("-")


def publish_round(run: Run, node: Node) -> None:
    """Publish the tables and the summary of a reported round, unless this server has them already."""
    report = read_report(run.directory(node))
    name = report.run
    about = f"Round {report.round} of {name}, {node_fingerprint(run, node)}"
    # The smallest is published last: if it exists, the others do, too.
    if is_published(artifact_key(name, "rounds"), about):
        return
    create_table_artifact(cluster_sizes(report), artifact_key(name, "cluster-sizes"), about)
    if pictures := curves(report):
        create_markdown_artifact(pictures, artifact_key(name, "curves"), about)
    create_markdown_artifact(summary(report, run), artifact_key(name, "summary"), about)
    create_table_artifact([row.content() for row in report.history], artifact_key(name, "rounds"), about)


def is_published(key: str, about: str) -> bool:
    """Return whether the server has an artifact of this key with this description, even if newer ones exist.

    Raises:
        Exception: any error of the communication with the server.
    """
    with get_client(sync_client=True) as client:
        for offset in itertools.count(0, PAGE):
            page = client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])),
                sort=ArtifactSort.CREATED_DESC,
                limit=PAGE,
                offset=offset,
            )
            if any(artifact.description == about for artifact in page):
                return True
            if len(page) < PAGE:
                break
    return False


def node_fingerprint(run: Run, node: Node) -> str:
    """Return the first digits of the committed directory's fingerprint; "" if there is none."""
    manifest = read_manifest(run.directory(node))
    return manifest.fingerprint[:12] if manifest else ""


def cluster_sizes(report: Report) -> list[dict[str, Any]]:
    """Return a row per cluster: label source, number, size, and the purity and labels if they are known."""
    rows = []
    for source, clusters in report.sources.items():
        for cluster in clusters.clusters:
            row: dict[str, Any] = {"source": source, "cluster": cluster.cluster, "clips": cluster.size}
            if cluster.top:
                top = ", ".join(f"{label.label} {label.share:.0%}" for label in cluster.top)
                row |= {"purity": cluster.purity, "top labels": top}
            rows.append(row)
    return rows


def summary(report: Report, run: Run) -> str:
    """Return Markdown that begins with a sentence: this round's figures, its purest clusters, where the files are."""
    number = report.round
    lines = [
        f"Round {number} of {_escape(report.run)} is reported: method {report.method.upper()}, "
        f"{report.corpus['clips']} clips{_agreement_in_words(report)}.",
    ]
    if report.stop is not None:
        lines.append(f"\nThe stopping rule {'holds' if report.stop.stop else 'does not hold yet'}: {report.stop.why}")
    for source, clusters in report.sources.items():
        lines.append(f"\n## Clusters of {source}: {clusters.k}, {clusters.empty} empty")
        if clusters.nmi_previous is not None:
            lines.append(f"- NMI with the round before: {clusters.nmi_previous:.3f}")
        for column, scores in clusters.agreement.items():
            if scores.nmi is not None:
                lines.append(f"- `{column}`: NMI {scores.nmi:.3f}, AMI {scores.ami:.3f}, purity {scores.purity:.3f}")
        if purest := purest_first(clusters.clusters):
            lines += ["\n| cluster | clips | purity | most frequent |", "|---|---|---|---|"]
            for row in purest[:8]:
                shares = [label for label in row.top if label.share >= SHOWN]
                top = ", ".join(f"{_escape(label.label)} {label.share:.0%}" for label in shares)
                lines.append(f"| {row.cluster} | {row.size} | {row.purity:.2f} | {top} |")
    for modality, training in report.training.items():
        lines.append(f"\n## Training of {modality}\nLoss {training.first_loss:.3f} to {training.loss:.3f}.")
    directory = run.round_directory(number).resolve()
    labels = directory / "labels"
    first = next(iter(report.sources), "truth")
    files = labels / "*" / part_path(labels / first, "*").relative_to(labels / first)
    lines.append(f"\n## Files\n- report: `{directory}/report/report.html`\n- pseudo-labels: `{files}`")
    return "\n".join(lines)


def curves(report: Report) -> str:
    """Return Markdown with a picture per curve over the rounds, after a sentence that names them; "" without curves."""
    charts = history_charts(report)
    if not charts:
        return ""
    pictures = (f"\n## {heading}\n![{heading}]({_as_picture(chart)})" for heading, chart in charts.items())
    named = "; ".join(charts)
    return "\n".join([f"Curves of {_escape(report.run)} up to round {report.round}: {named}.", *pictures])


def _agreement_in_words(report: Report) -> str:
    """Return the agreement of the clusters with the first label column that is known, per label source."""
    known = [
        f"{source} {scores.nmi:.3f} (NMI with `{column}`)"
        for source, clusters in report.sources.items()
        for column, scores in list(clusters.agreement.items())[:1]
        if scores.nmi is not None
    ]
    return f"; clusters of {', of '.join(known)}" if known else ""


def _as_picture(svg: str) -> str:
    """Return a data URL of a picture: Prefect's pages cannot reach the files of a run."""
    return f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", text)
