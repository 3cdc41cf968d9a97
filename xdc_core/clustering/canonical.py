"""Axes that modalities share: a generalised canonical correlation analysis (MAXVAR) of their features."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from xdc_core.clustering.pca import ENOUGH_CLIPS, most_components, principal_components

# Other pairings of the modalities' clips, in which no axis is shared but by chance.
PAIRINGS = 3
# Clips whose covariances are added at a time, in float64: 65,536 of 1,024 numbers take 512 MB.
AT_ONCE = 1 << 16


@dataclass(frozen=True)
class SharedAxes:
    """The axes on which the modalities agree, as the map x -> matrix x + bias of their concatenated features.

    matrix: float32 [axes, width of all modalities]. bias: float32 [axes]. components: number of whitened components of
    each modality. correlations: of the axes, largest first. chance: the largest correlation of an axis in other
    pairings of the clips. above_chance: number of axes above it; only these are kept if there are at least two.
    """

    matrix: np.ndarray
    bias: np.ndarray
    components: tuple[int, ...]
    correlations: np.ndarray
    chance: float
    above_chance: int

    def document(self) -> dict[str, Any]:
        """Return JSON values for kmeans.json: all but the map."""
        return {
            "components": list(self.components),
            "correlations": [round(float(value), 4) for value in self.correlations],
            "chance": round(self.chance, 4),
            "above_chance": self.above_chance,
        }


def shared_axes(parts: list[np.ndarray], axes: int | None, clips_per_component: int | None, seed: int) -> SharedAxes:
    """Fit the axes that modalities share to features, float32 [clips, width], one array per modality.

    Each modality is whitened by itself. PCA of all whitened modalities side by side then gives axes whose variance is 1
    where the modalities are independent, and 1 + r for two modalities with the canonical correlation r. For m
    modalities this is MAXVAR (Kettenring 1971; Carroll 1968): the variance is 1 + (m - 1) r, where r is the mean
    correlation of the modalities on the axis. An axis is scaled to the variance r: an axis that is not shared, however
    much variance it has in one modality, does not count for clusters.

    Of few clips, components that happen to agree would look shared. A modality therefore has at most one component per
    `clips_per_component` clips (default 15), but at least eight. And only axes are kept whose correlation is above that
    of all axes after the clips of each modality were permuted. If there are fewer than two, all axes are kept.

    `axes` limits the components of each modality, and the axes; None: no limit.
    """
    count = len(parts[0])
    limits = [min(part.shape[1], axes or part.shape[1]) for part in parts]
    whitened = [
        principal_components(part, most_components(limit, count, clips_per_component or ENOUGH_CLIPS), whiten=True)[:2]
        for part, limit in zip(parts, limits, strict=True)
    ]
    rng = np.random.default_rng(seed)
    variances, directions = _principal_axes(parts, whitened, None)
    others = (_principal_axes(parts, whitened, rng)[0][0] for _ in range(PAIRINGS))
    pairs = len(parts) - 1
    correlations, chance = np.clip((variances - 1) / pairs, 0, 1), max(0.0, float(max(others) - 1) / pairs)
    above = int((correlations > chance).sum())
    kept = above if above > 1 else max(1, int((correlations > 0).sum()))
    kept = min(kept, axes or kept)
    scales = np.sqrt(correlations[:kept] / variances[:kept])
    by_axis = (directions[:, :kept] * scales).T
    own = np.split(by_axis, np.cumsum([len(matrix) for matrix, _ in whitened])[:-1], axis=1)
    maps = [(part @ matrix, part @ bias) for part, (matrix, bias) in zip(own, whitened, strict=True)]
    return SharedAxes(
        matrix=np.concatenate([matrix for matrix, _ in maps], axis=1).astype(np.float32),
        bias=np.sum([bias for _, bias in maps], axis=0).astype(np.float32),
        components=tuple(len(matrix) for matrix, _ in whitened),
        correlations=correlations[:kept],
        chance=chance,
        above_chance=above,
    )


def _principal_axes(
    parts: list[np.ndarray], whitened: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return variances, float64 [components], largest first, and axes [components, components] in columns, of PCA.

    With `rng` the clips of every modality but the first are permuted.
    """
    count, width = len(parts[0]), sum(len(matrix) for matrix, _ in whitened)
    order = [None if rng is None or number == 0 else rng.permutation(count) for number in range(len(parts))]
    sums = np.zeros((width, width))
    for first in range(0, count, AT_ONCE):
        block = slice(first, first + AT_ONCE)
        rows = [
            (part[block] if own is None else part[own[block]]) @ matrix.T + bias
            for part, own, (matrix, bias) in zip(parts, order, whitened, strict=True)
        ]
        side_by_side = np.concatenate(rows, axis=1, dtype=np.float64)
        sums += side_by_side.T @ side_by_side
    variances, axes = np.linalg.eigh(sums / count)
    return variances[::-1], axes[:, ::-1]
