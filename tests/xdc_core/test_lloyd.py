"""Lloyd's iterations over all clips in units: the objective and the empty clusters of faiss, and resumption."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from shards.corpus.index import shard_names
from shards.store.commit import partial_directory
from shards.store.executor import IN_PROCESS
from shards.store.manifest import list_files
from tests.runs import MakeRun
from tests.xdc_core.stage_process import start
from tests.xdc_core.tasks import BACKWARDS, features_of
from xdc_core.clustering.lloyd import Sums, moved, no_sums
from xdc_core.clustering.preprocess import load_preprocess
from xdc_core.data.features import source_part
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.stages import sample as sampling
from xdc_core.stages.sample import Learnable

NODE = Node("cluster", "audio", 0)
SAMPLED = {"sample_mb": 20 * 64 * 4 / 1e6, "iterations_over_all": 6}


def iterated(points: np.ndarray, parts: int, centroids: np.ndarray, iterations: int) -> tuple[np.ndarray, list[float]]:
    """Centroids and objective of iterations over points that come in parts."""
    objective = []
    for number in range(iterations):
        sums = no_sums(*centroids.shape)
        for part in np.array_split(points, parts):
            own = no_sums(*centroids.shape)
            own.add_points(part, centroids)
            sums.add(own)
        objective.append(sums.objective)
        centroids, _ = moved(sums, number)
    return centroids, objective


def faiss_iterated(points: np.ndarray, centroids: np.ndarray, iterations: int) -> tuple[np.ndarray, list[float]]:
    """The same by faiss, from the same centroids."""
    k = len(centroids)
    means = faiss.Kmeans(
        points.shape[1], k, niter=iterations, max_points_per_centroid=len(points), min_points_per_centroid=1
    )
    means.train(points, init_centroids=centroids)
    return means.centroids, [step["obj"] for step in means.iteration_stats]


def exact_objective(points: np.ndarray, centroids: np.ndarray) -> float:
    """The sum of squared distances to the nearest centroids, in float64."""
    squared = ((points[:, None].astype(np.float64) - centroids[None]) ** 2).sum(axis=2)
    return float(squared.min(axis=1).sum())


def test_the_objective_is_that_of_faiss_from_the_same_centroids() -> None:
    dice = np.random.default_rng(5)
    spots = dice.normal(scale=5, size=(60, 16))
    points = (spots[np.arange(3000) % 60] + dice.normal(scale=0.01, size=(3000, 16))).astype(np.float32)
    start = points[:20].copy()
    for number in range(5):  # Other CPUs round otherwise: no point may be nearly as close to a second centroid.
        squared = ((points[:, None] - iterated(points, 7, start, number)[0][None]) ** 2).sum(axis=2)
        nearest, second = np.sort(squared, axis=1).T[:2]
        assert (second - nearest).min() > 1
    centroids, objective = iterated(points, 7, start, 25)
    expected, faiss_objective = faiss_iterated(points, start, 25)
    moves = len(faiss_objective)  # It stops where nothing moves any more.
    assert moves == 5
    np.testing.assert_allclose(objective[:moves], faiss_objective, rtol=1e-5)  # It adds in float32.
    np.testing.assert_allclose(objective[moves:], objective[moves - 1], rtol=1e-12)
    assert exact_objective(points, start) == pytest.approx(objective[0], rel=1e-6)
    assert exact_objective(points, centroids) == pytest.approx(exact_objective(points, expected), rel=1e-6)


def test_sums_are_those_of_the_nearest_points() -> None:
    points = np.random.default_rng(2).normal(size=(300, 5)).astype(np.float32)
    centroids = points[:9]
    sums = no_sums(9, 5)
    sums.add_points(points, centroids)
    sums.add_points(points[:0], centroids)
    squared = ((points[:, None].astype(np.float64) - centroids[None]) ** 2).sum(axis=2)
    own = squared.argmin(axis=1)
    assert sums.sizes.tolist() == np.bincount(own, minlength=9).tolist()
    for cluster in range(9):
        np.testing.assert_allclose(sums.vectors[cluster], points[own == cluster].sum(axis=0), atol=1e-4)
    assert sums.objective == pytest.approx(squared.min(axis=1).sum(), rel=1e-6)
    counted = no_sums(9, 0)
    counted.add_points(points, centroids)
    assert (counted.sizes.tolist(), counted.objective) == (sums.sizes.tolist(), sums.objective)


def test_groups_of_shards_grow_with_the_clusters_whose_sums_they_store() -> None:
    learnable = Learnable(Path("corpus"), (), None, {f"{number:06d}": 100 for number in range(1000)})
    assert [len(group) for group in learnable.groups().values()] == [128] * 7 + [104]
    assert [len(group) for group in learnable.groups(12_800).values()] == [128] * 7 + [104]
    assert [len(group) for group in learnable.groups(50_001).values()] == [501, 499]
    assert learnable.groups(50_001)["000501-000999"][0] == ("000501", 50_100, 100)


def test_empty_clusters_are_refilled_by_splitting_a_large_one() -> None:
    vectors = np.array([[10.0, 20.0], [0.0, 0.0], [3.0, 3.0]])
    sums = Sums(vectors, np.array([10, 0, 1]))
    centroids, splits = moved(sums, 0)
    assert splits == 1
    np.testing.assert_allclose(centroids[[0, 1]], [[1, 2], [1, 2]], rtol=2e-3)
    assert (centroids[0] != centroids[1]).all()
    assert centroids[2].tolist() == [3, 3]
    assert sums.sizes.tolist() == [10, 0, 1]
    assert (moved(sums, 0)[0] == centroids).all()


def kmeans_of(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.directory(NODE) / "kmeans.json").read_text())
    return found


def all_points(run: Run) -> np.ndarray:
    preprocess = load_preprocess(run.directory(NODE) / "preprocess.npz")
    parts = [source_part(features_of(run, 0, "audio"), shard)[1] for shard in shard_names(run.corpus)]
    return np.concatenate([preprocess(part) for part in parts])


def test_the_stage_goes_on_over_all_clips_from_the_fit_to_the_sample(copy_run: MakeRun) -> None:
    sampled, run = copy_run(sample_mb=SAMPLED["sample_mb"]), copy_run(**SAMPLED)
    run_stage(sampled, NODE)
    run_stage(run, NODE)
    begin, found = kmeans_of(sampled), kmeans_of(run)
    start = np.load(sampled.directory(NODE) / "centroids.npy")
    points = all_points(run)
    expected, objective = iterated(points, len(shard_names(run.corpus)), start, 6)
    np.testing.assert_allclose(found["objective"], objective, rtol=1e-5)
    np.testing.assert_allclose(np.load(run.directory(NODE) / "centroids.npy"), expected, atol=1e-4)
    assert (found["sample"], found["clips"], found["iterations_over_all"]) == (20, 48, 6)
    assert found["sample_objective"] == begin["objective"]
    own = ((points[:, None] - expected[None]) ** 2).sum(axis=2).argmin(axis=1)
    assert found["sizes"] == np.bincount(own, minlength=4).tolist()
    assert sorted(list_files(run.directory(NODE))) == ["centroids.npy", "kmeans.json", "preprocess.npz"]


def test_workers_give_the_same_bytes(copy_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PER_GROUP", 2)
    results = []
    for executor in (IN_PROCESS, BACKWARDS):
        run = copy_run(**SAMPLED)
        run_stage(run, NODE, executor=executor)
        results.append(list_files(run.directory(NODE)))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "point",
    [
        "kill:3:after receipt 000000-000002",
        "kill:2:before rename state.json",
        "kill:4:in discard",
        "kill:7:in discard",
        "kill:1:before commit",
    ],
)
def test_a_killed_call_goes_on_in_its_iteration_and_ends_with_the_same_bytes(copy_run: MakeRun, point: str) -> None:
    whole, run = copy_run(**SAMPLED), copy_run(**SAMPLED)
    run_stage(whole, NODE)
    process = start(run, NODE, os.environ | {"XDC_FAULT": point})
    said = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, said
    fingerprint = Fingerprints(run).of(NODE)
    assert fingerprint is not None
    begun = sorted(partial_directory(run.directory(NODE), fingerprint).glob("lloyd/[0-9]*[0-9]"))
    notes: list[tuple[int, int]] = []
    run_stage(run, NODE, progress=lambda done, total, note="": notes.append((done, total)))
    if begun:
        assert notes[0] >= (3 * int(begun[-1].name), 3 * 7)  # Three shards in an iteration; no sample is read again.
    assert list_files(run.directory(NODE)) == list_files(whole.directory(NODE))
    assert not [path for path in run.directory(NODE).parent.iterdir() if path.name.endswith(".partial")]


def test_iterations_over_all_enter_the_fingerprint(copy_run: MakeRun) -> None:
    plain, zero, some = copy_run(), copy_run(iterations_over_all=0), copy_run(**SAMPLED)
    of = [Fingerprints(run).of(NODE) for run in (plain, zero, some)]
    assert of[0] == of[1] != of[2]
