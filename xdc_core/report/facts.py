"""Everything that was measured in a round, read from what its stages left."""

from pathlib import Path
from typing import Any

from shards.commit import Manifest, read_manifest
from shards.index import label_columns, read_index, shard_names
from shards.stored import read_stored_json
from xdc_core.evaluation.table import headline
from xdc_core.graph import round_nodes, setup_nodes
from xdc_core.labels import read_labels
from xdc_core.methods import clustered_sources, modalities
from xdc_core.run import Node, Run
from xdc_core.scores import Contingency
from xdc_core.training.metrics import read_metrics

EXAMPLES = 5


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
        "sources": {source: _source_facts(run, number, source) for source in clustered_sources(config.method)},
        "training": {},
        "evaluations": _evaluations(run, number),
    }
    if facts["trained"]:
        for modality in modalities(config.method):
            directory = run.directory(Node("train", modality, number))
            lines = read_metrics(directory / "metrics.jsonl")
            facts["training"][modality] = _summary(run, Node("train", modality, number)) | {
                "curve": lines[:: max(1, len(lines) // 200)]
            }
    facts["history"] = _history(run, number, facts)
    facts["evaluation_history"] = _evaluation_history(run, number, facts)
    return facts


def _summary(run: Run, node: Node) -> dict[str, Any]:
    manifest = read_manifest(run.directory(node))
    return dict(manifest.summary) if manifest else {}


def _node_facts(node: Node, manifest: Manifest) -> dict[str, Any]:
    return {
        "node": node.name,
        "rows": manifest.rows,
        "rejects": manifest.rejects,
        "seconds": manifest.seconds,
        "finished": manifest.finished,
        "fingerprint": manifest.fingerprint[:12],
    }


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
        "purest": _purest(run, labels),
    }


def _purest(run: Run, labels: Path) -> list[dict[str, Any]]:
    """For the first label column: every cluster's size, purity and three most frequent labels, purest first."""
    names = label_columns(run.corpus)
    if not names:
        return []
    counts = Contingency()
    for shard in shard_names(run.corpus):
        keys, clusters = read_labels(labels, shard)
        index = read_index(run.corpus, shard, ["key", names[0]])
        truth = dict(zip(index["key"].to_pylist(), index[names[0]].to_pylist(), strict=True))
        counts.add(clusters, [truth[key] for key in keys])
    by_cluster: dict[int, list[tuple[str, int]]] = {}
    for (cluster, name), count in counts.counts.items():
        by_cluster.setdefault(cluster, []).append((name, count))
    rows = []
    for cluster, found in by_cluster.items():
        found.sort(key=lambda pair: (-pair[1], pair[0]))
        size = sum(count for _, count in found)
        top = [{"label": name, "share": round(count / size, 4)} for name, count in found[:3]]
        rows.append({"cluster": cluster, "size": size, "purity": top[0]["share"], "top": top})
    return sorted(rows, key=lambda row: (-row["purity"], -row["size"], row["cluster"]))


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


def _before(run: Run, number: int) -> dict[str, Any]:
    """The report of the round before; empty for the first."""
    if not number:
        return {}
    path = run.directory(Node("report", None, number - 1)) / "report.json"
    found: dict[str, Any] = read_stored_json(path, "report")
    return found


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
