"""Features with mean 0 and deviation 1, or of length 1. In float64: squares of large float32 numbers are infinite."""

from dataclasses import dataclass

import numpy as np

from xdc_core.clustering.preprocess import unit_length

# A feature that varies by less than this share of its mean varies by the rounding of float32 only.
NOISE = 1e-6


@dataclass(frozen=True)
class Standard:
    """x -> (x - mean) * scale. mean and scale: float64 [width]."""

    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """float32 [n, width] -> float64 [n, width]."""
        return (features - self.mean) * self.scale


def fit_standard(features: np.ndarray) -> Standard:
    """Mean and deviation of training features, float32 [n, width]. A feature that is constant there becomes 0."""
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    varies = deviation > NOISE * np.abs(mean)
    return Standard(mean, np.where(varies, 1 / np.where(varies, deviation, 1), 0))


def directions(features: np.ndarray) -> np.ndarray:
    """float32 [n, width] -> float64 [n, width], every row of length 1; a row of zeros stays."""
    return unit_length(features.astype(np.float64))
