"""What is done to features before k-means: normalise, PCA, whiten, normalise. Stored beside the centroids."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol
from zipfile import BadZipFile

import numpy as np

from shards.errors import ConfigError, StageError
from shards.store.checked_read import read_stored, remedy_of
from shards.store.files import new_file

# Components with less than this share of the largest variance are rounding noise: whitening would blow them up.
NOISE = 1e-6


class PreprocessSettings(Protocol):
    """Those of the settings of a clustering that say how features are prepared; see `ClusterSettings`."""

    @property
    def pca(self) -> int | None: ...
    @property
    def whiten(self) -> bool: ...
    @property
    def l2(self) -> bool: ...
    @property
    def joint_l2(self) -> bool: ...


@dataclass(frozen=True)
class Preprocess:
    """x -> l2(A x + b). `matrix` float32 [components, width] and `bias` [components] hold PCA and whitening; both are
    None without PCA. `part_l2`: every modality's part is scaled to length 1 first.
    """

    matrix: np.ndarray | None
    bias: np.ndarray | None
    part_l2: bool
    l2: bool

    def __call__(self, parts: list[np.ndarray]) -> np.ndarray:
        """Features float32 [clips, width], one a modality -> float32 [clips, components]."""
        points = np.concatenate([unit_length(part) if self.part_l2 else part for part in parts], axis=1)
        if self.matrix is not None:
            points = points @ self.matrix.T + self.bias
        return np.ascontiguousarray(unit_length(points) if self.l2 else points, np.float32)

    def save(self, path: Path) -> None:
        """Write an .npz without pickles."""
        arrays = {"part_l2": np.array(self.part_l2), "l2": np.array(self.l2)}
        if self.matrix is not None and self.bias is not None:
            arrays |= {"matrix": self.matrix, "bias": self.bias}
        with new_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


def load_preprocess(path: Path) -> Preprocess:
    """Raises StageError where the file is missing or damaged."""
    try:
        with np.load(BytesIO(read_stored(path, "cluster")), allow_pickle=False) as stored:
            matrix, bias = (stored.get(name) for name in ("matrix", "bias"))
            return Preprocess(matrix, bias, bool(stored["part_l2"]), bool(stored["l2"]))
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise StageError(f"{path} cannot be read ({error}). {remedy_of(path, 'cluster')}") from error


def unit_length(points: np.ndarray) -> np.ndarray:
    """Scale every row to length 1; a row of zeros stays."""
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(norms > 0, norms, 1)


def fit_preprocess(parts: list[np.ndarray], settings: PreprocessSettings) -> tuple[Preprocess, dict[str, object]]:
    """Fit PCA on a sample (float32 [clips, width], one a modality). Returns it and what was kept.

    PCA and whitening are faiss's, as in DeepCluster (eigen_power -0.5). Fewer components than asked for are kept
    where the data has fewer (a dead unit, say); `pca_kept` tells.

    Raises:
        ConfigError: more components than the features are wide.
        StageError: all features are the same.
    """
    part_l2 = len(parts) > 1 and settings.joint_l2
    points = Preprocess(None, None, part_l2, False)(parts)
    count, width = points.shape
    if settings.pca is not None and settings.pca > width:
        raise ConfigError(f"cluster.pca is {settings.pca}, but features are {width} wide: lower it, or set it to null.")
    if not np.ptp(points, axis=0).any():
        raise StageError(
            f"the features of all {count} clips are the same: the encoder has collapsed. Lower train.lr and run the "
            "round before again, or look at its metrics.jsonl."
        )
    if settings.pca is None:
        return Preprocess(None, None, part_l2, settings.l2), {}
    import faiss

    kept = min(settings.pca, count)
    pca = faiss.PCAMatrix(width, kept, -0.5 if settings.whiten else 0.0)
    pca.train(points)
    # Of more points than this faiss uses a random sample, and its sums are over that sample.
    seen = min(count, pca.max_points_per_d * width)
    variances = faiss.vector_to_array(pca.eigenvalues)[:kept]
    kept = max(1, int((variances > NOISE * variances.max()).sum()))
    matrix = faiss.vector_to_array(pca.A).reshape(-1, width)[:kept]
    bias = faiss.vector_to_array(pca.b)[:kept]
    if settings.whiten:
        # faiss divides by the deviation of the sum, not of the mean: its components have variance 1 / seen.
        matrix, bias = matrix * np.float32(seen**0.5), bias * np.float32(seen**0.5)
    share = float(variances[:kept].sum() / max(points.var(axis=0).sum() * seen, 1e-30))
    return Preprocess(matrix, bias, part_l2, settings.l2), {
        "pca_kept": kept,
        "variance_kept": round(min(share, 1.0), 4),
    }
