"""The preprocessing of features before k-means: normalise, PCA, whiten, normalise. Stored beside the centroids."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np

from shards.errors import ConfigError, StageError
from shards.store.checked_read import read_stored, remedy_of
from shards.store.files import new_file
from xdc_core.clustering.canonical import shared_axes
from xdc_core.clustering.pca import most_components, principal_components

CANONICAL = "canonical"


class PreprocessSettings(Protocol):
    """The settings of preprocessing, a part of `ClusterSettings`."""

    @property
    def pca(self) -> int | None: ...
    @property
    def whiten(self) -> bool: ...
    @property
    def l2(self) -> bool: ...
    @property
    def clips_per_component(self) -> int | None: ...
    @property
    def centre(self) -> bool: ...
    @property
    def joint_l2(self) -> bool: ...
    @property
    def joint(self) -> str: ...


@dataclass(frozen=True)
class Preprocess:
    """x -> l2(A x + b). `matrix` float32 [components, width] and `bias` [components] hold PCA and whitening, or the
    axes that modalities share; without them `matrix` is None, and `bias` is minus the mean, or None, too. `part_l2`:
    each modality's part is first scaled to length 1.
    """

    matrix: np.ndarray | None
    bias: np.ndarray | None
    part_l2: bool
    l2: bool

    def __call__(self, parts: list[np.ndarray]) -> np.ndarray:
        """Transform features float32 [clips, width], one array per modality, to float32 [clips, components]."""
        points = np.concatenate([unit_length(part) if self.part_l2 else part for part in parts], axis=1)
        if self.matrix is not None:
            points = points @ self.matrix.T
        if self.bias is not None:
            points = points + self.bias
        return np.ascontiguousarray(unit_length(points) if self.l2 else points, np.float32)

    def save(self, path: Path) -> None:
        """Write an .npz file without pickles."""
        arrays = {"part_l2": np.array(self.part_l2), "l2": np.array(self.l2)}
        fitted = {"matrix": self.matrix, "bias": self.bias}
        arrays |= {name: array for name, array in fitted.items() if array is not None}
        with new_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


def load_preprocess(path: Path) -> Preprocess:
    """Read what `Preprocess.save` wrote. Raises StageError if the file is missing or damaged."""
    try:
        with np.load(BytesIO(read_stored(path, "cluster")), allow_pickle=False) as stored:
            matrix, bias = (stored.get(name) for name in ("matrix", "bias"))
            return Preprocess(matrix, bias, bool(stored["part_l2"]), bool(stored["l2"]))
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise StageError(f"{path} cannot be read ({error}). {remedy_of(path, 'cluster')}") from error


def unit_length(points: np.ndarray) -> np.ndarray:
    """Scale every row to length 1; rows of zeros stay zero."""
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(norms > 0, norms, 1)


def fit_preprocess(
    parts: list[np.ndarray], settings: PreprocessSettings, seed: int = 0, names: Sequence[str] = ()
) -> tuple[Preprocess, dict[str, Any]]:
    """Fit preprocessing to a sample (float32 [clips, width], one array per modality). Return it, and what it is.

    names: of the modalities, for errors.

    Without PCA there is nothing to fit but, with `centre`, the mean. What it is, for kmeans.json: `pca_kept`, the
    number of components; `pca_asked`, if `clips_per_component` lowered it; `whitened`; `variance_kept`; and
    `canonical`, where the axes that several modalities share are fitted instead of PCA.

    Raises:
        ConfigError: more components than the features are wide.
        StageError: all features are the same; for `canonical`, all of one modality.
    """
    part_l2 = len(parts) > 1 and settings.joint_l2
    count, width = len(parts[0]), sum(part.shape[1] for part in parts)
    if settings.pca is not None and settings.pca > width:
        raise ConfigError(f"cluster.pca is {settings.pca}, but features are {width} wide: lower it, or set it to null.")
    if len(parts) > 1 and settings.joint == CANONICAL:
        parts = [unit_length(part) if part_l2 else part for part in parts]
        for number, part in enumerate(parts):
            _check_that_clips_differ(part, names[number : number + 1])
        axes = shared_axes(parts, settings.pca, settings.clips_per_component, seed)
        return Preprocess(axes.matrix, axes.bias, part_l2, settings.l2), {"canonical": axes.document()}
    points = Preprocess(None, None, part_l2, False)(parts)
    _check_that_clips_differ(points, names)
    if settings.pca is None:
        mean = points.mean(axis=0, dtype=np.float64).astype(np.float32) if settings.centre else None
        return Preprocess(None, None if mean is None else -mean, part_l2, settings.l2), {}
    components = most_components(settings.pca, count, settings.clips_per_component)
    matrix, bias, share = principal_components(points, components, settings.whiten)
    return Preprocess(matrix, bias, part_l2, settings.l2), {
        "pca_kept": len(matrix),
        **({"pca_asked": settings.pca} if settings.clips_per_component and components < settings.pca else {}),
        "whitened": settings.whiten,
        "variance_kept": round(share, 4),
    }


def _check_that_clips_differ(points: np.ndarray, names: Sequence[str]) -> None:
    if not np.ptp(points, axis=0).any():
        features = f"the {' and '.join(names)} features" if names else "the features"
        has = "encoders have" if len(names) > 1 else "encoder has"
        raise StageError(
            f"{features} of all {len(points)} clips are the same: the {has} collapsed. Lower train.lr and run "
            "the round before again, or look at its metrics.jsonl."
        )
