"""The axes that modalities share, on features with known factors; and the cluster stage that fits them."""

import os
import signal
from typing import Any

import numpy as np
import pytest
from sklearn.cross_decomposition import CCA
from sklearn.metrics import adjusted_mutual_info_score

from shards.errors import StageError
from shards.store.executor import IN_PROCESS
from shards.store.manifest import list_files
from tests.runs import MakeRun
from tests.xdc_core.stage_process import start
from tests.xdc_core.tasks import BACKWARDS
from xdc_core.clustering.canonical import SharedAxes, shared_axes
from xdc_core.clustering.kmeans import assign, kmeans
from xdc_core.clustering.preprocess import fit_preprocess, load_preprocess
from xdc_core.config.clustering import ClusterSettings
from xdc_core.documents.kmeans import read_kmeans
from xdc_core.documents.scores import read_scores
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import Node
from xdc_core.stages import sample as sampling


def settings(**values: Any) -> ClusterSettings:
    return ClusterSettings(**{"pca": 64, "joint": "canonical"} | values)


def planted(clips: int, modalities: int = 2, width: int = 64) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Features with one shared factor (10 values) and, twice as strong, a private one each (12 values); and both."""
    dice = np.random.default_rng(0)
    shared, privates = dice.integers(10, size=clips), [dice.integers(12, size=clips) for _ in range(modalities)]
    parts = [
        0.5 * dice.normal(size=(10, width))[shared]
        + dice.normal(size=(12, width))[private]
        + 0.3 * dice.normal(size=(clips, width))
        + 2
        for private in privates
    ]
    return [part.astype(np.float32) for part in parts], shared, privates


def clusters(parts: list[np.ndarray], given: ClusterSettings, k: int = 10) -> np.ndarray:
    preprocess, _ = fit_preprocess(parts, given, seed=3)
    points = preprocess(parts)
    return assign({"centroids": kmeans(points, k, 20, seed=0, threads=1)[0]}, points)[1]


def mapped(axes: SharedAxes, parts: list[np.ndarray]) -> np.ndarray:
    return np.asarray(np.concatenate(parts, axis=1).astype(np.float64) @ axes.matrix.T + axes.bias)


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("clips", [400, 2000])
def test_canonical_clusters_follow_the_shared_factor_and_those_side_by_side_the_private_ones(
    modalities: int, clips: int
) -> None:
    parts, shared, privates = planted(clips, modalities)
    canonical, concat = clusters(parts, settings()), clusters(parts, settings(joint="concat", whiten=False))
    assert adjusted_mutual_info_score(shared, canonical) > 0.9
    assert adjusted_mutual_info_score(shared, concat) < 0.2
    for private in privates:
        assert adjusted_mutual_info_score(private, canonical) < 0.05
    assert max(adjusted_mutual_info_score(private, concat) for private in privates) > 0.4


@pytest.mark.parametrize("modalities", [2, 3])
def test_as_many_axes_are_kept_as_the_shared_factor_has_dimensions(modalities: int) -> None:
    axes = shared_axes(planted(2000, modalities)[0], None, None, 0)
    assert len(axes.correlations) == 9  # Ten places in general position, minus their mean.
    assert axes.correlations.min() > axes.chance + 0.2
    assert axes.above_chance == 9


def test_correlations_are_the_canonical_ones_and_axes_the_mean_of_the_canonical_variates() -> None:
    dice = np.random.default_rng(1)
    latent = dice.normal(size=(3000, 2))
    parts = [
        (np.concatenate([latent * [1, 0.5], dice.normal(size=(3000, 3))], axis=1) @ dice.normal(size=(5, 5)) + 4)
        + dice.normal(size=(3000, 5))
        for _ in range(2)
    ]
    axes = shared_axes([part.astype(np.float32) for part in parts], None, None, 0)
    first, second = CCA(2, max_iter=5000, tol=1e-10).fit_transform(*parts)
    wanted = [np.corrcoef(first[:, axis], second[:, axis])[0, 1] for axis in range(2)]
    np.testing.assert_allclose(axes.correlations, wanted, atol=2e-3)
    found = mapped(axes, parts)
    for axis in range(2):
        mean = first[:, axis] / first[:, axis].std() + second[:, axis] / second[:, axis].std()
        assert abs(np.corrcoef(found[:, axis], mean)[0, 1]) > 0.999


def test_the_variance_of_an_axis_is_its_correlation() -> None:
    parts = planted(2000)[0]
    axes = shared_axes(parts, None, None, 0)
    points = mapped(axes, parts)
    np.testing.assert_allclose(np.cov(points.T, bias=True), np.diag(axes.correlations), atol=2e-3)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-3)


@pytest.mark.parametrize("modalities", [2, 3])
def test_independent_modalities_share_nothing_above_chance(modalities: int) -> None:
    dice = np.random.default_rng(0)
    parts = [dice.normal(size=(600, 512)).astype(np.float32) for _ in range(modalities)]
    axes = shared_axes(parts, None, None, 0)
    assert axes.above_chance < 2
    assert axes.components == (40,) * modalities  # One per 15 clips: of more, some always agree.
    assert axes.correlations[0] < axes.chance * 1.1
    assert axes.chance < 0.6


@pytest.mark.parametrize(("asked", "per_component", "components"), [(None, None, 32), (8, None, 8), (64, 100, 20)])
def test_components_are_limited_by_the_setting_and_by_the_number_of_clips(
    asked: int | None, per_component: int | None, components: int
) -> None:
    axes = shared_axes(planted(2000, width=32)[0], asked, per_component, 0)
    assert axes.components == (components, components)
    assert len(axes.matrix) <= components


def test_modalities_of_different_widths_and_scales_are_one_map() -> None:
    parts, shared, _ = planted(2000)
    narrow = [parts[0][:, :20] * 1000, parts[1]]
    preprocess, done = fit_preprocess(narrow, settings(joint_l2=False))
    assert preprocess.matrix is not None
    assert preprocess.matrix.shape == (len(done["canonical"]["correlations"]), 84)
    assert adjusted_mutual_info_score(shared, clusters(narrow, settings(joint_l2=False))) > 0.8


def test_clips_that_come_in_blocks_give_the_same_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = planted(500)[0]
    whole = shared_axes(parts, None, None, 0)
    monkeypatch.setattr("xdc_core.clustering.canonical.AT_ONCE", 77)
    blocks = shared_axes(parts, None, None, 0)
    np.testing.assert_allclose(blocks.correlations, whole.correlations, atol=1e-6)
    assert blocks.chance == pytest.approx(whole.chance, abs=1e-6)


def test_the_same_seed_gives_the_same_map() -> None:
    parts = planted(500)[0]
    one, other = (fit_preprocess(parts, settings(), seed=5)[0] for _ in range(2))
    assert one.matrix is not None
    assert other.matrix is not None
    assert (one.matrix == other.matrix).all()


def test_one_modality_alone_shares_its_axes_with_none() -> None:
    parts = planted(500)[0][:1]
    canonical, plain = (fit_preprocess(parts, settings(joint=joint))[0] for joint in ("canonical", "concat"))
    assert (canonical(parts) == plain(parts)).all()


def test_a_collapsed_encoder_of_one_modality_is_an_error() -> None:
    parts = planted(100)[0]
    with pytest.raises(StageError, match=r"all 100 clips are the same: the encoder has collapsed"):
        fit_preprocess([parts[0], np.full_like(parts[1], 0.3)], settings())


NODE = Node("cluster", "joint", 0)
CDC = {"method": "cdc", "joint": "canonical"}


def test_the_stage_stores_the_map_and_records_the_axes(copy_run: MakeRun) -> None:
    run = copy_run(**CDC)
    run_stage(run, NODE)
    done = read_kmeans(run.directory(NODE))
    preprocess = load_preprocess(run.directory(NODE) / "preprocess.npz")
    assert done.canonical is not None
    assert preprocess.matrix is not None
    assert preprocess.matrix.shape == (done.components, 128)
    assert len(done.canonical.correlations) == done.components
    assert done.canonical.components == [8, 8]  # Of 48 clips.
    run_stage(run, Node("label", "joint", 0))
    label = read_scores(run.directory(Node("label", "joint", 0)))
    assert label.sizes == done.sizes


@pytest.mark.parametrize(
    ("more", "point"),
    [
        ({}, "kill:1:before rename preprocess.npz"),
        ({}, "kill:1:before rename kmeans.json"),
        ({}, "kill:1:before commit"),
        ({"sample_mb": 0.02, "iterations_over_all": 3}, "kill:2:before rename state.json"),
    ],
)
def test_a_killed_stage_goes_on_and_ends_with_the_same_bytes(
    copy_run: MakeRun, more: dict[str, Any], point: str
) -> None:
    whole, run = copy_run(**CDC, **more), copy_run(**CDC, **more)
    run_stage(whole, NODE)
    process = start(run, NODE, os.environ | {"XDC_FAULT": point})
    said = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, said
    run_stage(run, NODE)
    assert list_files(run.directory(NODE)) == list_files(whole.directory(NODE))
    assert not [path for path in run.directory(NODE).parent.iterdir() if path.name.endswith(".partial")]


def test_workers_give_the_same_bytes(copy_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PER_GROUP", 2)
    results = []
    for executor in (IN_PROCESS, BACKWARDS):
        run = copy_run(**CDC, sample_mb=0.02, iterations_over_all=2)
        run_stage(run, NODE, executor=executor)
        results.append(list_files(run.directory(NODE)))
    assert results[0] == results[1]


def test_the_setting_enters_the_fingerprint_of_joint_clusters_only(copy_run: MakeRun) -> None:
    for node, method in ((NODE, "cdc"), (Node("cluster", "audio", 0), "xdc")):
        plain, canonical = (copy_run(method=method, joint=joint) for joint in ("concat", "canonical"))
        same = Fingerprints(plain).of(node) == Fingerprints(canonical).of(node)
        assert same == (method == "xdc")
