"""Balanced labels: those of a dense transport plan, over shards and workers, and after a kill."""

import json
import os
import signal
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.corpus.index import read_whole_index, shard_names
from shards.store.commit import partial_directory
from shards.store.executor import IN_PROCESS
from shards.store.files import part_name, part_path
from shards.store.manifest import list_files
from tests.runs import MakeRun
from tests.xdc_core.stage_process import start
from tests.xdc_core.tasks import BACKWARDS, features_of
from xdc_core.clustering import sinkhorn
from xdc_core.clustering.model import array_file
from xdc_core.clustering.preprocess import load_preprocess
from xdc_core.clustering.sinkhorn import assign, balanced, log_masses, mean_squared_distance, moments
from xdc_core.data.features import source_part
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.stages import sample as sampling

CLUSTER, LABEL = Node("cluster", "audio", 0), Node("label", "audio", 0)
BALANCED = {"assign": "balanced", "iterations": 7, "temperature": 0.1}


def squared_distances(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    squared: np.ndarray = ((points[:, None].astype(np.float64) - centroids[None]) ** 2).sum(axis=2)
    return squared


def dense_plan(squared: np.ndarray, temperature: float, iterations: int) -> np.ndarray:
    """The transport plan by scaling the rows and the columns of the whole matrix in turn; rows come last."""
    n, k = squared.shape
    kernel, columns = np.exp(-squared / temperature), np.ones(k)
    for _ in range(iterations):
        rows = 1 / n / (kernel @ columns)
        columns = 1 / k / (kernel.T @ rows)
    rows = 1 / n / (kernel @ columns)
    plan: np.ndarray = rows[:, None] * kernel * columns
    return plan


def uneven_points(n: int = 600, k: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Points of which most are near one centroid, float32 [n, 5], and k centroids."""
    dice = np.random.default_rng(3)
    centroids = dice.normal(size=(k, 5)).astype(np.float32)
    of = dice.choice(k, n, p=[0.7, *[0.3 / (k - 1)] * (k - 1)])
    return (centroids[of] + dice.normal(scale=0.7, size=(n, 5))).astype(np.float32), centroids


def iterated(
    points: np.ndarray, centroids: np.ndarray, temperature: float, iterations: int, parts: int = 7
) -> tuple[np.ndarray, list[float]]:
    """Potentials after iterations over points that come in parts, and how uneven the clusters were before each."""
    potentials, uneven = np.zeros(len(centroids)), []
    for _ in range(iterations):
        masses = [log_masses(part, centroids, potentials, temperature) for part in np.array_split(points, parts)]
        potentials, share = balanced(potentials, np.logaddexp.reduce(masses), len(points), temperature)
        uneven.append(share)
    return potentials, uneven


@pytest.mark.parametrize("iterations", [1, 2, 5, 40])
@pytest.mark.parametrize("values", [1 << 22, 60])
def test_the_plan_is_that_of_a_dense_matrix(monkeypatch: pytest.MonkeyPatch, iterations: int, values: int) -> None:
    monkeypatch.setattr(sinkhorn, "VALUES", values)
    points, centroids = uneven_points()
    squared, temperature = squared_distances(points, centroids), 0.7
    expected = dense_plan(squared, temperature, iterations)
    potentials, _ = iterated(points, centroids, temperature, iterations)
    plan = np.exp((potentials - squared) / temperature)
    plan /= len(points) * plan.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(plan, expected, rtol=1e-4, atol=1e-12)
    distance, cluster, elsewhere = assign(points, centroids, potentials)
    assert cluster.tolist() == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose(distance, np.sqrt(squared[np.arange(len(points)), cluster]), rtol=1e-5)
    assert elsewhere == (cluster != squared.argmin(axis=1)).sum() > 0


def test_clusters_become_equal_where_the_nearest_are_not() -> None:
    points, centroids = uneven_points()
    squared = squared_distances(points, centroids)
    assert np.bincount(squared.argmin(axis=1)).max() > 350
    scale = mean_squared_distance(moments(points[:200]) + moments(points[200:]), len(points))
    assert scale == pytest.approx(squared_distances(points, points).mean(), rel=1e-6)
    potentials, uneven = iterated(points, centroids, 0.01 * scale, 400)
    assert uneven[0] > 0.3
    assert uneven == sorted(uneven, reverse=True)
    assert uneven[-1] < 0.01
    sizes = np.bincount(assign(points, centroids, potentials)[1], minlength=6)
    assert sizes.min() >= 95
    assert sizes.max() <= 105


def test_before_the_first_iteration_labels_are_those_of_the_nearest_centroid() -> None:
    points, centroids = uneven_points()
    distance, cluster, elsewhere = assign(points, centroids, np.zeros(6))
    assert cluster.tolist() == squared_distances(points, centroids).argmin(axis=1).tolist()
    assert (elsewhere, distance.dtype, cluster.dtype) == (0, np.float32, np.int64)
    assert [len(found) for found in assign(points[:0], centroids, np.zeros(6))[:2]] == [0, 0]


def test_a_cluster_far_from_every_point_gets_its_share() -> None:
    points, centroids = uneven_points()
    centroids[2] += 30
    potentials, uneven = iterated(points, centroids, 1.0, 400)
    assert np.isfinite(potentials).all()
    assert uneven[-1] < 0.01
    assert np.bincount(assign(points, centroids, potentials)[1], minlength=6).min() >= 95


def all_points(run: Run, splits: list[str] | None, head: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Preprocessed features of the clips of some splits, and the centroids of a clustering."""
    clusters = run.directory(CLUSTER)
    parts = [source_part(features_of(run, 0, "audio"), shard) for shard in shard_names(run.corpus)]
    index = read_whole_index(run.corpus, ["key", "split"]).to_pydict()
    split_of = dict(zip(index["key"], index["split"], strict=True))
    points = np.concatenate([load_preprocess(clusters / "preprocess.npz")(part) for _, part in parts])
    chosen = [splits is None or split_of[key] in splits for keys, _ in parts for key in keys]
    return points[chosen], np.load(clusters / array_file("centroids", head))


def scores_of(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.directory(LABEL) / "scores.json").read_text())
    return found


def labels_of(run: Run, column: str = "cluster") -> np.ndarray:
    tables = [pq.read_table(part_path(run.directory(LABEL), shard)) for shard in shard_names(run.corpus)]
    return np.concatenate([table[column].to_numpy() for table in tables])


@pytest.mark.parametrize("splits", [None, ["train"]])
def test_the_stage_transports_the_clips_to_learn_from_and_labels_all(
    copy_run: MakeRun, splits: list[str] | None
) -> None:
    run = copy_run(corpus={"learn_splits": splits}, label=BALANCED)
    for node in (Node("init", "audio"), Node("extract", "audio", 0), CLUSTER, LABEL):
        run_stage(run, node)
    points, centroids = all_points(run, splits)
    squared = squared_distances(points, centroids)
    potentials = np.load(run.directory(LABEL) / "potentials.npy")
    scale = squared_distances(points, points).mean()
    plan = np.exp((potentials - squared) / (0.1 * scale))
    plan /= len(points) * plan.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(plan, dense_plan(squared, 0.1 * scale, 7), rtol=1e-3, atol=1e-9)
    everything, _ = all_points(run, None)
    squares = squared_distances(everything, centroids)
    own = (squares - potentials).argmin(axis=1)
    assert labels_of(run).tolist() == own.tolist()
    np.testing.assert_allclose(labels_of(run, "distance"), np.sqrt(squares[np.arange(48), own]), rtol=1e-4)
    found = scores_of(run)
    assert (found["clips"], found["sizes"]) == (48, np.bincount(own, minlength=4).tolist())
    balance = found["balance"]
    assert balance["squared_distance"] == pytest.approx(scale, rel=1e-5)
    assert balance["elsewhere"] == (own != squares.argmin(axis=1)).sum()
    assert (balance["iterations"], len(balance["uneven"])) == (7, 7)
    assert balance["uneven"][-1] < balance["uneven"][0]
    shards = [*map(part_name, shard_names(run.corpus))]
    assert sorted(list_files(run.directory(LABEL))) == [*shards, "potentials.npy", "scores.json"]


def test_all_clusterings_are_balanced_each_by_itself(copy_run: MakeRun) -> None:
    run = copy_run(cluster={"heads": 2}, label=BALANCED)
    for node in (CLUSTER, LABEL):
        run_stage(run, node)
    for head, columns in ((0, ("cluster", "potentials.npy")), (1, ("cluster_1", "potentials-1.npy"))):
        points, centroids = all_points(run, None, head)
        potentials = np.load(run.directory(LABEL) / columns[1])
        expected = (squared_distances(points, centroids) - potentials).argmin(axis=1)
        assert labels_of(run, columns[0]).tolist() == expected.tolist()
    first, (second,) = scores_of(run)["balance"], (own["balance"] for own in scores_of(run)["clusterings"])
    assert first["uneven"] != second["uneven"]
    assert first["squared_distance"] == second["squared_distance"]


def test_workers_give_the_same_bytes(copy_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PER_GROUP", 2)
    results = []
    for executor in (IN_PROCESS, BACKWARDS):
        run = copy_run(label=BALANCED)
        run_stage(run, LABEL, executor=executor)
        results.append(list_files(run.directory(LABEL)))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "point",
    [
        "kill:4:after receipt 000000-000002",
        "kill:1:before rename state.json",
        "kill:3:before rename state.json",
        "kill:5:in discard",
        "kill:1:after receipt 000001",
        "kill:9:in discard",
        "kill:1:before commit",
    ],
)
def test_a_killed_call_goes_on_in_its_iteration_and_ends_with_the_same_bytes(copy_run: MakeRun, point: str) -> None:
    whole, run = copy_run(label=BALANCED), copy_run(label=BALANCED)
    run_stage(whole, LABEL)
    process = start(run, LABEL, os.environ | {"XDC_FAULT": point})
    said = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, said
    fingerprint = Fingerprints(run).of(LABEL)
    assert fingerprint is not None
    begun = sorted(partial_directory(run.directory(LABEL), fingerprint).glob("balance/[0-9]*[0-9]"))
    notes: list[tuple[int, int]] = []
    run_stage(run, LABEL, progress=lambda done, total, note="": notes.append((done, total)))
    assert notes[-1] == (27, 27)  # Three shards in each of 9 passes.
    if begun:
        assert notes[0] >= (3 * (int(begun[-1].name) - 1), 27)
    assert list_files(run.directory(LABEL)) == list_files(whole.directory(LABEL))
    assert not [path for path in run.directory(LABEL).parent.iterdir() if path.name.endswith(".partial")]


def test_only_balanced_labels_depend_on_the_settings_of_balancing(copy_run: MakeRun) -> None:
    def fingerprint(**label: Any) -> str | None:
        return Fingerprints(copy_run(label=label)).of(LABEL)

    assert fingerprint() == fingerprint(iterations=9, temperature=0.3)
    found = [fingerprint(), *(fingerprint(**BALANCED | more) for more in ({}, {"iterations": 9}, {"temperature": 0.3}))]
    assert len(set(found)) == 4


def test_true_labels_are_not_balanced(copy_run: MakeRun) -> None:
    truth = Node("label", "truth", 0)
    plain, run = (
        copy_run(method="supervised", truth="label_speaker", label=given) for given in ({"assign": "nearest"}, BALANCED)
    )
    assert Fingerprints(plain).of(truth) == Fingerprints(run).of(truth)
    run_stage(run, truth)
    assert "balance" not in json.loads((run.directory(truth) / "scores.json").read_text())
