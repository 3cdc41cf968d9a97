"""Estimates with their range: an array whose first value is the estimate, and the others those of a bootstrap.

The bootstrap draws the observations again with replacement (Efron 1979). Arithmetic with such arrays carries the range
along: value number b of every array belongs to the same draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 1000
SHARE = 95.0  # Per cent of the draws that a range covers.


@dataclass(frozen=True)
class Range:
    """An estimate, and the ends of the interval that has 95 % of the bootstrap's draws."""

    low: float
    middle: float
    high: float


def weights(count: int, whole: int, seed: int) -> np.ndarray:
    """Return how much each of `count` observations out of `whole` counts: float64 [1 + DRAWS, count]; first all 1.

    The deviations have the correction for finite populations: where all are observed, nothing is uncertain.
    """
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), DRAWS)
    left = max(0.0, 1 - count / max(whole, count)) ** 0.5
    return np.vstack([np.ones(count), 1 + (drawn - 1) * left])


def ratio(weight: np.ndarray, parts: Sequence[float], wholes: Sequence[float]) -> np.ndarray:
    """Return the sum of `parts` over the sum of `wholes`: float64 [1 + DRAWS].

    Draws in which the wholes add up to nothing (all files broken) have the estimate itself; it is 0 if that is so, too.
    """
    above, below = weight @ np.asarray(parts, float), weight @ np.asarray(wholes, float)
    estimate = above[0] / below[0] if below[0] > 0 else 0.0
    return np.divide(above, below, out=np.full(len(above), estimate), where=below > 0)


def constant(value: float) -> np.ndarray:
    """Return an estimate without a range: float64 [1 + DRAWS]."""
    return np.full(1 + DRAWS, float(value))


def range_of(values: np.ndarray) -> Range:
    """Return an estimate's range. It always has the estimate inside."""
    low, high = np.percentile(values[1:], [(100 - SHARE) / 2, (100 + SHARE) / 2])
    return Range(float(min(low, values[0])), float(values[0]), float(max(high, values[0])))
