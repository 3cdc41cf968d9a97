"""The differences between two runs: settings, data and results."""

from collections.abc import Iterator
from typing import Any

from shards.corpus.index import read_whole_index, shard_names
from shards.store.files import parts_of
from shards.store.manifest import read_manifest
from xdc_core.clustering.agreement import Contingency, agreement
from xdc_core.config.methods import clustered_sources
from xdc_core.data.labels import read_labels
from xdc_core.documents.report import Report
from xdc_core.inspection.catalogue import newest_report
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


def difference(a: Run, b: Run) -> dict[str, Any]:
    """Compare two runs, each as far as its stopping rule let it go.

    settings: name -> [value in a, value in b], of settings that differ. data: clips of each corpus, how many are in
    both (same key, same bytes), and whether they are the same corpus. results: a row per measure and round that both
    have reported (round, measure, a, b). clusters: a row per label source, for the last round that both have labelled,
    with the NMI and AMI between a's and b's clusters over the clips in both.
    """
    shared = _shared(a, b)
    ours, theirs = (run.config.as_given.model_dump(mode="json") for run in (a, b))
    return {
        "runs": [str(a.root), str(b.root)],
        "settings": dict(differing_settings(ours, theirs)),
        "data": _data(a, b, shared),
        "results": list(_results(a, b)),
        "clusters": list(_clusters(a, b, shared)),
    }


def differing_settings(a: dict[str, Any], b: dict[str, Any], path: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield the dotted names and values that differ in two nested dictionaries; a missing value is None."""
    for name in dict.fromkeys((*a, *b)):
        ours, theirs = a.get(name), b.get(name)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from differing_settings(ours, theirs, f"{path}{name}.")
        elif ours != theirs:
            yield f"{path}{name}", [ours, theirs]


def _contents(run: Run) -> dict[str, str]:
    """Return the sha256 of every clip, by key."""
    if not shard_names(run.corpus):
        return {}
    index = read_whole_index(run.corpus, ["key", "sha256"])
    return dict(zip(index["key"].to_pylist(), index["sha256"].to_pylist(), strict=True))


def _shared(a: Run, b: Run) -> set[str]:
    """Return the clips with the same key and bytes in both corpora: a key is only a name and a time."""
    ours, theirs = _contents(a), _contents(b)
    return {key for key in ours.keys() & theirs.keys() if ours[key] == theirs[key]}


def _data(a: Run, b: Run, shared: set[str]) -> dict[str, Any]:
    corpora = [read_manifest(run.corpus) for run in (a, b)]
    prints = [manifest.fingerprint if manifest else None for manifest in corpora]
    return {
        "corpora": [str(a.corpus), str(b.corpus)],
        "clips": [manifest.rows if manifest else 0 for manifest in corpora],
        "shared": len(shared),
        "same": None not in prints and prints[0] == prints[1],
    }


def _results(a: Run, b: Run) -> Iterator[dict[str, Any]]:
    reports = [newest_report(run) for run in (a, b)]
    if None in reports:
        return
    ours, theirs = (dict(_measures(report)) for report in reports if report is not None)
    for measured in sorted(ours.keys() & theirs.keys()):
        number, measure = measured
        yield {"round": number, "measure": measure, "a": ours[measured], "b": theirs[measured]}


def _measures(report: Report) -> Iterator[tuple[tuple[int, str], float]]:
    """Yield the numbers of every round in a report's histories, by round and name."""
    label = report.first_label
    for row in report.history:
        values = row.content()
        names = {"nmi_previous": "NMI with the round before", "empty": "empty clusters", "loss": "loss"}
        names |= {f"{score}:{label}": f"{score.upper()} with {label}" for score in ("nmi", "ami")} if label else {}
        for name, shown in names.items():
            if values.get(name) is not None:
                yield (row.round, f"{row.source}: {shown}"), values[name]
    for evaluation in report.evaluation_history:
        if evaluation.mean is not None:
            yield (evaluation.round, f"{evaluation.evaluation}: {evaluation.metric}"), evaluation.mean


def _clusters(a: Run, b: Run, shared: set[str]) -> Iterator[dict[str, Any]]:
    rounds = range(min(a.config.last_round, b.config.last_round), -1, -1)
    for source in dict.fromkeys(name for run in (a, b) for name in _clustered(run)):
        both = (n for n in rounds if all(read_manifest(run.directory(Node("label", source, n))) for run in (a, b)))
        if (number := next(both, None)) is None:
            continue
        ours, theirs = (_assigned(run, source, number) for run in (a, b))
        counts = Contingency()
        counts.counts.update((ours[key], str(theirs[key])) for key in shared & ours.keys() & theirs.keys())
        scores = agreement(counts)
        yield {"source": source, "round": number} | {name: scores[name] for name in ("clips", "nmi", "ami")}


def _clustered(run: Run) -> tuple[str, ...]:
    return clustered_sources(run.config.method, run.config.modalities)


def _assigned(run: Run, source: str, number: int) -> dict[str, int]:
    directory = run.directory(Node("label", source, number))
    assigned: dict[str, int] = {}
    for shard in parts_of(directory):
        keys, clusters = read_labels(directory, shard)
        assigned.update(zip(keys, clusters.tolist(), strict=True))
    return assigned
