"""Two dimensions for features, to draw them: the first principal components, or UMAP."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from shards.errors import ConfigError
from xdc_core.clustering.preprocess import unit_length

Method = Literal["pca", "umap"]
FITTED = 10_000  # Clips that PCA is fitted to.
UMAP_FITTED = 50_000  # UMAP takes minutes for so many; further ones are placed among them.
Projection = Callable[[np.ndarray], np.ndarray]


def fit_projection(features: np.ndarray, method: Method, seed: int) -> Projection:
    """Fit a projection to features, float32 [n, width]. Return a function from such features to float32 [n, 2].

    Features are centred on their mean and scaled to length 1, as their cosines are compared elsewhere. Components have
    the sign with which their largest weight is positive. UMAP (arXiv 1802.03426) has umap-learn's defaults; with a
    seed it uses one thread.

    Raises:
        ConfigError: umap-learn is not installed, or there are fewer than 4 clips for UMAP.
    """
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)

    def scaled(points: np.ndarray) -> np.ndarray:
        result: np.ndarray = unit_length(points - mean)
        return result

    points = scaled(features)
    if method == "umap":
        return _umap(points, scaled, seed)
    centre = points.mean(axis=0)
    # The eigenvectors of the covariance: exact, and cheap for features of some hundred dimensions.
    _, vectors = np.linalg.eigh(np.cov((points - centre).T.astype(np.float64)).reshape(2 * (points.shape[1],)))
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
    if axes.shape[1] < 2:  # Features of one dimension.
        axes = np.concatenate([axes, np.zeros_like(axes)], axis=1)
    return lambda rows: ((scaled(rows) - centre) @ axes).astype(np.float32)


def _umap(points: np.ndarray, scaled: Projection, seed: int) -> Projection:
    try:
        from umap import UMAP
    except ImportError:
        raise ConfigError(
            "--projection umap needs the extra umap: pip install 'xdc-pipeline[umap]'. Or: --projection pca"
        ) from None
    if len(points) < 4:
        raise ConfigError(f"--projection umap needs at least 4 clips, and there are {len(points)}. Use pca.")
    model = UMAP(n_neighbors=min(15, len(points) - 1), random_state=seed, init="pca", n_jobs=1)
    placed = model.fit_transform(points)

    def project(rows: np.ndarray) -> np.ndarray:
        wanted = scaled(rows)
        known = len(wanted) == len(points) and np.array_equal(wanted, points)
        return np.asarray(placed if known else model.transform(wanted), np.float32)

    return project
