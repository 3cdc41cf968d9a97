"""Features with mean 0 and deviation 1, or of length 1, in float64: squares of large float32 numbers overflow."""

from dataclasses import dataclass

import numpy as np

from xdc_core.clustering.preprocess import unit_length

# A deviation of less than this share of the mean is rounding noise of float32.
NOISE = 1e-6


@dataclass(frozen=True)
class Standard:
    """The standardisation x -> (x - mean) * scale. mean and scale: float64 [width]."""

    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Standardise features, float32 [n, width], to float64 [n, width]."""
        return (features - self.mean) * self.scale


def fit_standard(features: np.ndarray) -> Standard:
    """Fit mean and deviation of training features, float32 [n, width]. Components that are constant there become 0."""
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    varies = deviation > NOISE * np.abs(mean)
    return Standard(mean, np.where(varies, 1 / np.where(varies, deviation, 1), 0))


def directions(features: np.ndarray) -> np.ndarray:
    """Scale the rows of features, float32 [n, width], to length 1, float64 [n, width]; a row of zeros stays zero."""
    return unit_length(features.astype(np.float64))
