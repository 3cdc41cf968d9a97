"""Regularised canonical correlation analysis: linear maps of two modalities' features into one space."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xdc_core.clustering.preprocess import unit_length
from xdc_core.probes.standardise import Standard, fit_standard


@dataclass(frozen=True)
class SharedSpace:
    """Linear maps of two modalities' features into one space, in which pairs have similar directions.

    standards: the standardisation of each modality. maps: float64 [width, components] of each. correlations: float64
    [components], the canonical correlations of the training pairs, largest first, reduced by the ridge.
    """

    ridge: float
    standards: tuple[Standard, Standard]
    maps: tuple[np.ndarray, np.ndarray]
    correlations: np.ndarray

    def __call__(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map features, float32 [n, width] per modality, to float64 [n, components] per modality, of length 1.

        A feature that equals the mean of the training features has length 0.
        """
        mapped = [
            unit_length(standard(features) @ matrix)
            for standard, features, matrix in zip(self.standards, (first, second), self.maps, strict=True)
        ]
        return mapped[0], mapped[1]


def fit_spaces(first: np.ndarray, second: np.ndarray, ridges: Sequence[float], power: float) -> Iterator[SharedSpace]:
    """Yield one space per ridge, fitted on pairs: float32 [n, width] per modality; row i of both is of the same clip.

    Features are standardised, so a ridge is in units of the variance of a feature; it is added to the diagonals of both
    covariances. Every component is scaled by its canonical correlation to the power `power`. Without this, components
    that the modalities do not share would contribute to a cosine as much as those that they share.
    """
    from scipy import linalg

    standards = fit_standard(first), fit_standard(second)
    points = [standard(features) for standard, features in zip(standards, (first, second), strict=True)]
    (first_values, first_axes), (second_values, second_axes) = (_principal_axes(own) for own in points)
    cross = first_axes.T @ (points[0].T @ points[1] / len(first)) @ second_axes
    for ridge in ridges:
        first_scale, second_scale = (_whitening(values, ridge) for values in (first_values, second_values))
        left, correlations, right = linalg.svd(first_scale[:, None] * cross * second_scale, full_matrices=False)
        weights = correlations**power
        maps = (first_axes * first_scale) @ (left * weights), (second_axes * second_scale) @ (right.T * weights)
        yield SharedSpace(ridge, standards, maps, correlations)


def fit_whitening(features: np.ndarray, ridge: float) -> tuple[Standard, np.ndarray]:
    """Fit what `fit_spaces` fits to each modality by itself: the standardisation, and a matrix, float64 [width, width].

    features: float32 [n, width]. Standardised features times the matrix have uncorrelated components, of variance 1 but
    for the ridge, which is in units of the variance of a feature.
    """
    standard = fit_standard(features)
    points = standard(features)
    return standard, whitening(points.T @ points / len(points), ridge)


def whitening(covariance: np.ndarray, ridge: float) -> np.ndarray:
    """Return the matrix, float64 [width, width], that makes components uncorrelated, of variance 1 but for the ridge.

    covariance: float64 [width, width], of features with mean 0, which are multiplied by the matrix. ridge: added to
    the variances.
    """
    from scipy import linalg

    values, axes = linalg.eigh(covariance)
    return np.asarray(axes * _whitening(values, ridge))


def _principal_axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return variances, float64 [width], and axes [width, width] in columns, of points with mean 0."""
    from scipy import linalg

    values, axes = linalg.eigh(points.T @ points / len(points))
    return values, axes


def _whitening(variances: np.ndarray, ridge: float) -> np.ndarray:
    # Rounding errors can make variances slightly negative.
    scales: np.ndarray = 1 / np.sqrt(np.maximum(variances, 0) + ridge)
    return scales
