"""What is done to features before k-means, against scikit-learn and by hand."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_mutual_info_score

from shards.errors import ConfigError, StageError
from xdc_core.clustering.kmeans import assign, kmeans
from xdc_core.clustering.preprocess import Preprocess, fit_preprocess, load_preprocess, unit_length
from xdc_core.config.clustering import ClusterSettings


def settings(**values: Any) -> ClusterSettings:
    plain: dict[str, Any] = {"pca": None, "whiten": False, "l2": False}
    return ClusterSettings(**plain | values)


@pytest.fixture
def points() -> np.ndarray:
    """500 correlated points with 8 numbers each, far from the origin."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(500, 8)) @ rng.normal(size=(8, 8)) * np.arange(1, 9)
    return (mixed + 30).astype(np.float32)


def equal_up_to_sign(one: np.ndarray, other: np.ndarray, tolerance: float) -> None:
    signs = np.sign((one * other).sum(axis=0))
    np.testing.assert_allclose(one, other * signs, atol=tolerance)


def test_plain_settings_leave_the_features_as_they_are(points: np.ndarray) -> None:
    preprocess, kept = fit_preprocess([points], settings())
    assert (preprocess([points]) == points).all()
    assert kept == {}


@pytest.mark.parametrize("components", [3, 8])
def test_pca_is_that_of_scikit_learn_up_to_sign(points: np.ndarray, components: int) -> None:
    preprocess, kept = fit_preprocess([points], settings(pca=components))
    theirs = PCA(components, svd_solver="full").fit(points.astype(np.float64))
    scale = float(points.std())
    equal_up_to_sign(preprocess([points]), theirs.transform(points), 1e-3 * scale)
    assert kept["pca_kept"] == components
    assert kept["variance_kept"] == pytest.approx(theirs.explained_variance_ratio_.sum(), abs=1e-3)


def test_whitening_is_that_of_scikit_learn_up_to_sign(points: np.ndarray) -> None:
    preprocess, _ = fit_preprocess([points], settings(pca=5, whiten=True))
    theirs = PCA(5, svd_solver="full", whiten=True).fit_transform(points.astype(np.float64))
    equal_up_to_sign(preprocess([points]), theirs, 0.01)


def test_whitening_gives_every_component_unit_variance(points: np.ndarray) -> None:
    preprocess, _ = fit_preprocess([points], settings(pca=8, whiten=True))
    result = preprocess([points])
    assert result.dtype == np.float32
    np.testing.assert_allclose(np.cov(result.T, bias=True), np.eye(8), atol=2e-3)
    np.testing.assert_allclose(result.mean(axis=0), 0, atol=1e-3)


@pytest.mark.parametrize("count", [64_000, 64_001, 150_000])
def test_many_points_are_whitened_and_their_variance_counted_as_few_are(count: int) -> None:
    # Of more than 1,000 times the width faiss looks at a part only.
    rng = np.random.default_rng(0)
    deviations = np.linspace(1, 8, 64)
    points = (rng.normal(size=(count, 64)) * deviations + 3).astype(np.float32)
    preprocess, kept = fit_preprocess([points], settings(pca=32, whiten=True))
    truth = np.sort(deviations**2)[32:].sum() / (deviations**2).sum()
    assert kept["variance_kept"] == pytest.approx(truth, abs=0.001)
    np.testing.assert_allclose(preprocess([points]).var(axis=0), 1, atol=0.02)


def test_what_was_fitted_applies_to_points_that_were_not_there(points: np.ndarray) -> None:
    preprocess, _ = fit_preprocess([points[:400]], settings(pca=3))
    theirs = PCA(3, svd_solver="full").fit(points[:400].astype(np.float64))
    equal_up_to_sign(preprocess([points[400:]]), theirs.transform(points[400:]), 1e-3 * float(points.std()))


def test_l2_comes_last(points: np.ndarray) -> None:
    with_l2, _ = fit_preprocess([points], settings(pca=3, whiten=True, l2=True))
    without, _ = fit_preprocess([points], settings(pca=3, whiten=True))
    result = with_l2([points])
    np.testing.assert_allclose(np.linalg.norm(result, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(result, unit_length(without([points])), atol=1e-6)


def test_a_row_of_zeros_stays_a_row_of_zeros() -> None:
    rows = np.array([[0, 0], [3, 4]], np.float32)
    np.testing.assert_allclose(unit_length(rows), [[0, 0], [0.6, 0.8]])


def test_dead_and_repeated_units_are_left_out(points: np.ndarray) -> None:
    points = np.concatenate([points, np.zeros((500, 2), np.float32), points[:, :1]], axis=1)
    preprocess, kept = fit_preprocess([points], settings(pca=11, whiten=True))
    result = preprocess([points])
    assert kept["pca_kept"] == result.shape[1] == 8
    np.testing.assert_allclose(result.var(axis=0), 1, atol=5e-3)


def test_fewer_points_than_components_keep_what_they_span(points: np.ndarray) -> None:
    preprocess, kept = fit_preprocess([points[:5]], settings(pca=8, whiten=True))
    result = preprocess([points[:5]])
    assert kept["pca_kept"] == result.shape[1] <= 5
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result.var(axis=0), 1, atol=0.01)


@pytest.mark.parametrize("pca", [2, None])
def test_an_encoder_that_gives_all_clips_the_same_feature_is_told_of(pca: int | None) -> None:
    with pytest.raises(StageError, match=r"all 20 clips are the same: the encoder has collapsed.*train\.lr"):
        fit_preprocess([np.full((20, 4), 0.3, np.float32)], settings(pca=pca, whiten=pca is not None))


def test_a_modality_whose_clips_are_the_same_is_named() -> None:
    names, same = ("video", "audio"), np.full((20, 4), 0.3, np.float32)
    differ = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    with pytest.raises(StageError, match="the audio features of all 20 clips are the same: the encoder has collapsed"):
        fit_preprocess([differ, same], settings(joint="canonical"), names=names)
    with pytest.raises(StageError, match=r"the video and audio features of all 20 .* encoders have"):
        fit_preprocess([same, same], settings(), names=names)


def test_more_components_than_numbers_is_a_configuration_error(points: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.pca is 9, but features are 8 wide: lower it, or set it to null"):
        fit_preprocess([points], settings(pca=9))


@pytest.mark.parametrize(("clips", "kept"), [(3840, 256), (3839, 255), (150, 10), (100, 8), (9, 8)])
@pytest.mark.parametrize("whiten", [True, False])
def test_few_clips_keep_few_components(clips: int, kept: int, whiten: bool) -> None:
    points = np.random.default_rng(0).normal(size=(clips, 300)).astype(np.float32)
    preprocess, done = fit_preprocess([points], settings(pca=256, whiten=whiten, clips_per_component=15))
    assert preprocess([points]).shape == (clips, kept)
    assert (done["pca_kept"], done.get("pca_asked")) == (kept, 256 if kept < 256 else None)
    assert done["whitened"] == whiten


def test_enough_clips_are_preprocessed_as_without_the_limit() -> None:
    points = np.random.default_rng(0).normal(size=(480, 40)).astype(np.float32)
    limited, plain = (
        fit_preprocess([points], settings(pca=32, whiten=True, **more))[0] for more in ({"clips_per_component": 15}, {})
    )
    assert (limited([points]) == plain([points])).all()


def test_of_few_clips_planted_clusters_are_found_with_the_limit_only() -> None:
    dice = np.random.default_rng(0)
    own = dice.integers(16, size=1000)
    places = dice.normal(size=(16, 512)) * 0.4
    points = (places[own] + dice.normal(size=(1000, 512))).astype(np.float32)
    found = {}
    for limit in (None, 15):
        given = settings(pca=256, whiten=True, l2=True, clips_per_component=limit)
        mapped = fit_preprocess([points], given)[0]([points])
        centroids = kmeans(mapped, 16, 20, seed=0, threads=1)[0]
        found[limit] = adjusted_mutual_info_score(own, assign({"centroids": centroids}, mapped)[1])
    assert found[None] < 0.3
    assert found[15] > 0.9


@pytest.mark.parametrize("l2", [True, False])
def test_features_are_centred_without_pca_if_asked(points: np.ndarray, l2: bool, tmp_path: Path) -> None:
    preprocess, done = fit_preprocess([points], settings(centre=True, l2=l2))
    wanted = points - points.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(preprocess([points]), unit_length(wanted) if l2 else wanted, atol=1e-5)
    assert done == {}
    preprocess.save(tmp_path / "preprocess.npz")
    assert (load_preprocess(tmp_path / "preprocess.npz")([points]) == preprocess([points])).all()


def test_pca_centres_anyway(points: np.ndarray) -> None:
    centred, plain = (fit_preprocess([points], settings(pca=3, centre=centre))[0] for centre in (True, False))
    assert (centred([points]) == plain([points])).all()


def test_joint_features_weigh_both_modalities_alike(points: np.ndarray) -> None:
    small = (points[:, :3] - 30) / 1e4
    preprocess, _ = fit_preprocess([points, small], settings())
    result = preprocess([points, small])
    assert result.shape == (500, 11)
    np.testing.assert_allclose(np.linalg.norm(result[:, :8], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(result[:, 8:], axis=1), 1, atol=1e-6)
    raw, _ = fit_preprocess([points, small], settings(joint_l2=False))
    assert (raw([points, small]) == np.concatenate([points, small], axis=1)).all()


def test_pca_of_joint_features_is_fitted_on_what_it_is_applied_to(points: np.ndarray) -> None:
    parts = [points, (points[:, ::2] - 30) / 1e4]
    preprocess, _ = fit_preprocess(parts, settings(pca=4, whiten=True))
    np.testing.assert_allclose(np.cov(preprocess(parts).T, bias=True), np.eye(4), atol=0.01)


def test_one_modality_alone_is_not_scaled_by_joint_l2(points: np.ndarray) -> None:
    preprocess, _ = fit_preprocess([points], settings(joint_l2=True))
    assert not preprocess.part_l2


@pytest.mark.parametrize("pca", [None, 3])
def test_a_stored_preprocess_does_the_same(points: np.ndarray, pca: int | None, tmp_path: Path) -> None:
    preprocess, _ = fit_preprocess([points, points[:, :2]], settings(pca=pca, whiten=pca is not None, l2=True))
    preprocess.save(tmp_path / "preprocess.npz")
    loaded = load_preprocess(tmp_path / "preprocess.npz")
    parts = [points[:50], points[:50, :2]]
    assert (loaded(parts) == preprocess(parts)).all()
    assert (loaded.part_l2, loaded.l2) == (True, True)


def test_no_pickle_is_written_or_read(points: np.ndarray, tmp_path: Path) -> None:
    preprocess, _ = fit_preprocess([points], settings(pca=3))
    preprocess.save(tmp_path / "good.npz")
    with zipfile.ZipFile(tmp_path / "good.npz") as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                np.lib.format.read_magic(file)
                dtype = np.lib.format.read_array_header_1_0(file)[2]
            assert not dtype.hasobject
    np.savez(tmp_path / "bad.npz", matrix=np.array([{"a": 1}], object), part_l2=False, l2=True, allow_pickle=True)
    with pytest.raises(StageError, match=r"bad\.npz cannot be read .*xdc stage cluster"):
        load_preprocess(tmp_path / "bad.npz")


@pytest.mark.parametrize("content", [None, b"", b"no zip", b"PK\x03\x04broken"])
def test_a_missing_or_damaged_file_tells_how_to_make_it_anew(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "preprocess.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StageError, match=r"preprocess\.npz cannot be read .*xdc stage cluster \.\.\. --force"):
        load_preprocess(path)


def test_the_result_is_contiguous_float32(points: np.ndarray) -> None:
    result = Preprocess(None, None, False, True)([points[:, ::2]])
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
