"""Everything that was measured in a round, read from what its stages left."""

from typing import Any

from shards.corpus.index import label_columns
from shards.store.checked_read import read_stored_json
from shards.store.manifest import Manifest, read_manifest
from xdc_core.config.methods import clustered_sources
from xdc_core.evaluation.table import headline
from xdc_core.graph.stages import round_nodes, setup_nodes
from xdc_core.report.clusters import cluster_rows
from xdc_core.report.diagnostics import signs
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.training.metrics import read_metrics


def gather(run: Run, number: int) -> dict[str, Any]:
    """The content of report.json. Reads manifests, scores, metrics and labels; features are not touched."""
    config = run.config
    facts: dict[str, Any] = {
        "run": run.root.resolve().name,
        "round": number,
        "method": config.method,
        "trained": number < config.rounds,
        "corpus": _summary(run, Node("shard")),
        "nodes": [
            _node_facts(node, manifest)
            for node in (*setup_nodes(config), *round_nodes(config, number)[:-1])
            if (manifest := read_manifest(run.directory(node)))
        ],
        "label_columns": label_columns(run.corpus),
        "sources": {
            source: _source_facts(run, number, source) for source in clustered_sources(config.method, config.modalities)
        },
        "training": {},
        "evaluations": _evaluations(run, number),
    }
    if facts["trained"]:
        for modality in config.modalities:
            directory = run.directory(Node("train", modality, number))
            lines = read_metrics(directory / "metrics.jsonl")
            facts["training"][modality] = _summary(run, Node("train", modality, number)) | {
                "curve": lines[:: max(1, len(lines) // 200)]
            }
    facts["history"] = _history(run, number, facts)
    facts["evaluation_history"] = _evaluation_history(run, number, facts)
    facts["signs"] = signs(facts)
    return facts


def _summary(run: Run, node: Node) -> dict[str, Any]:
    manifest = read_manifest(run.directory(node))
    return dict(manifest.summary) if manifest else {}


def _node_facts(node: Node, manifest: Manifest) -> dict[str, Any]:
    return {
        "node": node.name,
        "stage": node.stage,
        "round": node.round,
        "rows": manifest.rows,
        "rejects": manifest.rejects,
        "seconds": manifest.seconds,
        "finished": manifest.finished,
        "fingerprint": manifest.fingerprint[:12],
    }


def examples_of(run: Run, k: int) -> int:
    """How many example clips each of k clusters gets: fewer where there are many clusters, but one."""
    wanted = run.config.report.examples
    return min(wanted, max(1, run.config.report.most_examples // k))


def purest_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The clusters whose purity is known, the purest first."""
    known = [row for row in rows if row["purity"] is not None]
    return sorted(known, key=lambda row: (-row["purity"], -row["size"], row["cluster"]))


def _source_facts(run: Run, number: int, source: str) -> dict[str, Any]:
    clusters, labels = (run.directory(Node(stage, source, number)) for stage in ("cluster", "label"))
    kmeans = read_stored_json(clusters / "kmeans.json", "cluster")
    scores = read_stored_json(labels / "scores.json", "label")
    return {
        "k": kmeans["k"],
        "sample": kmeans["sample"],
        "objective": kmeans["objective"],
        "on": kmeans["on"],
        **{name: scores[name] for name in ("clips", "empty", "largest", "largest_share", "nmi_previous", "sizes")},
        "agreement": scores["labels"],
        "clusters": cluster_rows(run, labels, kmeans["k"], examples_of(run, kmeans["k"])),
    }


def _evaluations(run: Run, number: int) -> dict[str, Any]:
    """Of the evaluations that are part of the round: metrics with mean and spread, and what to know about them."""
    found = {}
    for node in round_nodes(run.config, number):
        if node.stage == "eval":
            facts = read_stored_json(run.directory(node) / "results.json", "eval")
            kept = ("protocol", "data", "modality", "metrics", "warnings")
            found[str(node.modality)] = {name: facts[name] for name in kept} | {"headline": headline(facts["protocol"])}
    return found


def _evaluation_history(run: Run, number: int, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a round and evaluation up to this round: its headline metric."""
    rows = _before(run, number).get("evaluation_history", [])
    for name, found in facts["evaluations"].items():
        spread = found["metrics"].get(found["headline"], {})
        row = {"round": number, "evaluation": name, "metric": found["headline"]}
        rows.append(row | {"mean": spread.get("mean"), "sd": spread.get("sd")})
    return rows


def read_report(run: Run, number: int) -> dict[str, Any]:
    """The report.json of a round."""
    path = run.directory(Node("report", None, number)) / "report.json"
    found: dict[str, Any] = read_stored_json(path, "report")
    return found


def _before(run: Run, number: int) -> dict[str, Any]:
    """The report of the round before; empty for the first."""
    return read_report(run, number - 1) if number else {}


def _history(run: Run, number: int, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a round and label source up to this round: k, empty clusters and agreements."""
    rows: list[dict[str, Any]] = _before(run, number).get("history", [])
    for source, found in facts["sources"].items():
        row = {"round": number, "source": source, "k": found["k"], "empty": found["empty"]}
        row |= {"largest_share": found["largest_share"], "nmi_previous": found["nmi_previous"]}
        for column, scores in found["agreement"].items():
            row |= {f"{score}:{column}": scores[score] for score in ("nmi", "ami", "purity")}
        row["loss"] = facts["training"].get(source, {}).get("loss")
        rows.append(row)
    return rows
