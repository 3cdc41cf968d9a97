"""Several clusterings per label source: each is a clustering of its own, and an encoder has a head for each."""

import json
import os
import signal
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import cross_entropy

from shards.corpus.index import read_whole_index, shard_names
from shards.store.executor import IN_PROCESS
from shards.store.files import part_path
from shards.store.manifest import list_files, read_manifest
from tests.runs import MakeRun
from tests.xdc_core.stage_process import start
from tests.xdc_core.tasks import BACKWARDS, features_of, targets_of
from tests.xdc_core.test_learner import learner, views
from xdc_core.clustering.preprocess import load_preprocess
from xdc_core.compute.seed import derive_seed
from xdc_core.config.load import parse_config
from xdc_core.config.methods import METHODS, TRUTH
from xdc_core.data.features import source_part
from xdc_core.data.labels import head_name, read_classes, read_labels
from xdc_core.documents.kmeans import read_kmeans
from xdc_core.documents.scores import read_scores
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes, settings_of
from xdc_core.inspection.verification import verify_run
from xdc_core.report.gather import round_report
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.training.learner import head_weights, weights_of_heads

CLUSTER, LABEL = Node("cluster", "audio", 0), Node("label", "audio", 0)
LLOYD = {"heads": 3, "iterations_over_all": 2, "sample_mb": 20 * 64 * 4 / 1e6}


def points_of(run: Run) -> np.ndarray:
    preprocess = load_preprocess(run.directory(CLUSTER) / "preprocess.npz")
    parts = [source_part(features_of(run, 0, "audio"), shard)[1] for shard in shard_names(run.corpus)]
    return np.concatenate([preprocess(part) for part in parts])


def test_every_clustering_is_that_of_k_means_with_its_own_seed(copy_run: MakeRun, worked_run: Run) -> None:
    run = copy_run(cluster={"heads": 3})
    run_stage(run, CLUSTER)
    points, found = points_of(run), read_kmeans(run.directory(CLUSTER))
    for name in ("centroids.npy", "preprocess.npz"):  # The first is the one that there is without the setting.
        assert (run.directory(CLUSTER) / name).read_bytes() == (worked_run.directory(CLUSTER) / name).read_bytes()
    seeds = [derive_seed(0, 0, "cluster", "audio", *number) for number in ((), (1,), (2,))]
    assert [found.seed, *(own.seed for own in found.clusterings)] == seeds
    for head, seed in enumerate(seeds):
        means = faiss.Kmeans(points.shape[1], 4, niter=found.settings["iterations"], seed=seed)
        means.cp.min_points_per_centroid, means.cp.max_points_per_centroid = 1, len(points)
        means.train(points)
        stored = np.load(run.directory(CLUSTER) / ("centroids.npy" if not head else f"centroids-{head}.npy"))
        np.testing.assert_allclose(stored, means.centroids, rtol=1e-5, atol=1e-6)
    assert found.heads == 3
    assert len({tuple(own.objective) for own in [found, *found.clusterings]}) == 3
    files = sorted(list_files(run.directory(CLUSTER)))
    assert files == ["centroids-1.npy", "centroids-2.npy", "centroids.npy", "kmeans.json", "preprocess.npz"]


def test_every_clustering_has_its_columns_and_scores(copy_run: MakeRun, worked_run: Run) -> None:
    run = copy_run(cluster={"heads": 2})
    for node in (CLUSTER, LABEL):
        run_stage(run, node)
    points, assigned = points_of(run), []
    for head, suffix in enumerate(("", "_1")):
        centroids = np.load(run.directory(CLUSTER) / f"centroids{suffix.replace('_', '-')}.npy").astype(np.float64)
        distances = np.linalg.norm(points[:, None] - centroids, axis=2)
        tables = [pq.read_table(part_path(run.directory(LABEL), shard)) for shard in shard_names(run.corpus)]
        columns = [np.concatenate([table[name + suffix] for table in tables]) for name in ("cluster", "distance")]
        assert columns[0].tolist() == distances.argmin(axis=1).tolist()
        np.testing.assert_allclose(columns[1], distances.min(axis=1), atol=1e-5)
        read = [read_labels(run.directory(LABEL), shard, head)[1] for shard in shard_names(run.corpus)]
        assert np.concatenate(read).tolist() == columns[0].tolist()
        assigned.append(columns[0])
    scores = read_scores(run.directory(LABEL))
    assert (scores.heads, read_classes(run.directory(LABEL))) == (2, [4, 4])
    assert [scores.sizes, scores.clusterings[0].sizes] == [np.bincount(own, minlength=4).tolist() for own in assigned]
    assert scores.labels.keys() == scores.clusterings[0].labels.keys()
    assert scores.labels["label"].nmi != scores.clusterings[0].labels["label"].nmi
    before = read_scores(worked_run.directory(LABEL)).content()
    assert {name: value for name, value in scores.content().items() if name != "clusterings"} == before


def test_one_clustering_is_the_default_and_changes_no_fingerprint(copy_run: MakeRun, worked_run: Run) -> None:
    one, two = copy_run(cluster={"heads": 1}), copy_run(cluster={"heads": 2})
    of = [Fingerprints(run).of(CLUSTER) for run in (worked_run, one, two)]
    assert of[0] == of[1] != of[2]


@pytest.mark.parametrize("changes", [{"heads": 3}, LLOYD])
def test_workers_give_the_same_bytes(copy_run: MakeRun, changes: dict[str, Any]) -> None:
    results = []
    for executor in (IN_PROCESS, BACKWARDS):
        run = copy_run(cluster=changes)
        for node in (CLUSTER, LABEL):
            run_stage(run, node, executor=executor)
        results.append([list_files(run.directory(node)) for node in (CLUSTER, LABEL)])
    assert results[0] == results[1]


def test_iterations_over_all_clips_are_those_of_each_clustering(copy_run: MakeRun) -> None:
    sampled, run = copy_run(cluster={**LLOYD, "iterations_over_all": 0}), copy_run(cluster=LLOYD)
    for made in (sampled, run):
        run_stage(made, CLUSTER)
    points = points_of(run)
    for head, name in enumerate(("centroids.npy", "centroids-1.npy", "centroids-2.npy")):
        centroids = np.load(sampled.directory(CLUSTER) / name)
        for _ in range(2):
            own = ((points[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
            assert len(np.unique(own)) == 4
            centroids = np.stack([points[own == cluster].mean(axis=0) for cluster in range(4)])
        np.testing.assert_allclose(np.load(run.directory(CLUSTER) / name), centroids, atol=1e-5)
        found = read_kmeans(run.directory(CLUSTER))
        details = found.clusterings[head - 1] if head else found
        assert (details.iterations_over_all, len(details.objective), sum(details.sizes)) == (2, 2, 48)


@pytest.mark.parametrize(
    "point",
    [
        "kill:2:before rename state.json",
        "kill:2:after receipt 000000-000002",
        "kill:5:after receipt 000000-000002",
        "kill:1:before rename centroids-1.npy",
        "kill:8:in discard",
        "kill:1:before commit",
    ],
)
def test_a_killed_clustering_goes_on_and_ends_with_the_same_bytes(copy_run: MakeRun, point: str) -> None:
    whole, run = copy_run(cluster=LLOYD), copy_run(cluster=LLOYD)
    run_stage(whole, CLUSTER)
    process = start(run, CLUSTER, os.environ | {"XDC_FAULT": point})
    said = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, said
    notes: list[tuple[int, int]] = []
    run_stage(run, CLUSTER, progress=lambda done, total, note="": notes.append((done, total)))
    assert notes[-1] == (27, 27)  # Three shards, in three passes for each of three clusterings.
    assert list_files(run.directory(CLUSTER)) == list_files(whole.directory(CLUSTER))
    assert not [path for path in run.directory(CLUSTER).parent.iterdir() if path.name.endswith(".partial")]


@pytest.mark.parametrize("method", ["xdc", "mdc"])
def test_an_encoder_learns_every_clustering_of_its_sources(copy_run: MakeRun, method: str) -> None:
    run = copy_run(cluster={"heads": 2}, method=method)
    for node in all_nodes(run.config):
        if node.round == 0 and node.stage in ("cluster", "label"):
            run_stage(run, node)
    node, sources = Node("train", "video", 0), ("audio",) if method == "xdc" else ("video", "audio")
    targets = targets_of(run, node)
    assert targets.heads == {source: [source, f"{source}-1"] for source in sources}
    assert targets.classes == {name: 4 for source in sources for name in (source, f"{source}-1")}
    keys = read_whole_index(run.corpus, ["key"])["key"].to_pylist()
    for source in sources:
        for head in (0, 1):
            found: dict[str, int] = {}
            for shard in shard_names(run.corpus):
                own = read_labels(run.directory(Node("label", source, 0)), shard, head)
                found |= dict(zip(*(column.tolist() for column in own), strict=True))
            assert targets.targets[head_name(source, head)].tolist() == [found[key] for key in keys]
    run_stage(run, node)
    lines = [json.loads(line) for line in (run.directory(node) / "metrics.jsonl").read_text().splitlines()]
    assert {key for key in lines[0] if key.startswith("accuracy")} == {f"accuracy_{name}" for name in targets.classes}
    # Untrained heads are near ln 4 each; the sum over sources of the mean over their heads is near ln 4 per source.
    assert lines[0]["loss"] == pytest.approx(len(sources) * np.log(4), rel=0.1)


def test_the_draws_are_uniform_over_the_clusters_of_the_first_clustering(copy_run: MakeRun, worked_run: Run) -> None:
    run = copy_run(cluster={"heads": 2})
    for source in ("audio", "video"):
        for stage in ("cluster", "label"):
            run_stage(run, Node(stage, source, 0))
    node = Node("train", "video", 0)
    assert targets_of(run, node).draws.tolist() == targets_of(worked_run, node).draws.tolist()


def test_the_control_gives_a_clip_all_labels_of_another_clip(copy_run: MakeRun) -> None:
    plain, run = (copy_run(cluster={"heads": 2}, train={"shuffle_labels": value}) for value in (False, True))
    for made in (plain, run):
        for stage in ("cluster", "label"):
            run_stage(made, Node(stage, "audio", 0))
    pairs = [
        list(zip(*(found.targets[name].tolist() for name in ("audio", "audio-1")), strict=True))
        for found in (targets_of(made, Node("train", "video", 0)) for made in (plain, run))
    ]
    assert pairs[0] != pairs[1]
    assert sorted(pairs[0]) == sorted(pairs[1])


def test_the_part_of_a_source_in_the_loss_is_the_mean_over_its_heads() -> None:
    sources = head_weights(("audio", "video"), "audio", 3.0)
    heads = {"audio": ["audio", "audio-1", "audio-2"], "video": ["video"]}
    weights = weights_of_heads(sources, heads)
    assert weights == pytest.approx({"audio": 1.0, "audio-1": 1.0, "audio-2": 1.0, "video": 1.0})
    assert {source: sum(weights[name] for name in names) for source, names in heads.items()} == sources
    assert weights_of_heads({"video": 1.0}, {"video": ["video"]}) == {"video": 1.0}


def test_the_loss_is_the_mean_of_the_heads_losses() -> None:
    names = ["video", "video-1"]
    made = learner(sources=tuple(names))
    object.__setattr__(made, "weights", weights_of_heads({"video": 1.0}, {"video": names}))
    targets = {name: (torch.arange(8) + shift) % 4 for shift, name in enumerate(names)}
    with torch.no_grad():
        logits = made.model(views())
    expected = np.mean([cross_entropy(logits[name], targets[name]).item() for name in names])
    assert made.step(views(), targets, 0.1)["loss"].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_a_run_with_several_clusterings_has_a_sound_report(make_run: MakeRun) -> None:
    evaluation = {"protocol": "clusters", "modality": "audio", "label": "label_speaker", "when": "end"}
    balanced = {"assign": "balanced", "iterations": 3}
    run = make_run(cluster={"heads": 2}, label=balanced, extract={"views": 2}, evaluate={"speakers": evaluation})
    for node in all_nodes(run.config):
        run_stage(run, node)
    assert verify_run(run) == []
    report = round_report(run, 1)
    for name, source in report.sources.items():
        scores = read_scores(run.directory(Node("label", name, 1)))
        (second,) = source.clusterings
        assert (second.empty, second.agreement) == (scores.clusterings[0].empty, scores.clusterings[0].labels)
        assert second.nmi_previous == scores.clusterings[0].nmi_previous is not None
    page = (run.directory(Node("report", None, 1)) / "report.html").read_text()
    for shown in ("Clustering 2", "The first of 2", "Balanced labels: ", "Features are means over 2"):
        assert shown in page
    manifest = read_manifest(run.directory(Node("label", "audio", 1)))
    assert manifest is not None
    assert (manifest.summary["heads"], manifest.summary["assign"]) == (2, "balanced")


def test_an_evaluation_of_clusters_and_the_baseline_do_not_depend_on_heads(worked_run: Run) -> None:
    values = worked_run.config.model_dump()
    evaluate = {"nmi": {"protocol": "clusters", "modality": "audio"}}
    found = []
    for heads in (1, 3):
        cluster = values["cluster"] | {"heads": heads}
        config = parse_config(values | {"cluster": cluster, "evaluate": evaluate, "method": "supervised"}, "a test")
        found.append([settings_of(config, node) for node in (Node("eval", "nmi", 0), Node("label", TRUTH, 0))])
    assert found[0] == found[1]
    assert "supervised" in METHODS
