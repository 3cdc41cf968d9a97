"""The similarity above which clips are duplicates, from the distances of all clips to their nearest neighbours."""

from dataclasses import dataclass

import numpy as np

BINS_PER_DECADE = 20  # Of the histogram, which is for people.
NEAREST_1 = 1e-6  # Distances are at least this: float32 does not tell smaller ones.
FEWEST = 8  # Clips.
FALSE_SHARE = 0.02  # The expected share, among the clips that are called duplicates, of those without a copy.
SHAPES = (1e-2, 1e3)  # Where the Gumbel distribution's 1 / scale is looked for.


@dataclass(frozen=True)
class Threshold:
    """The histogram of log10(1 - similarity) to the nearest neighbour, and the threshold that follows from them.

    counts: int [bins]. edges: of the bins, as similarity. similarity: None if no duplicates stand out. why: in words.
    """

    counts: list[int]
    edges: list[float]
    similarity: float | None
    why: str


def find_threshold(similarity: np.ndarray) -> Threshold:
    """Return the similarity that separates duplicates from other clips, float32 [clips] to each nearest neighbour.

    In a space of m dimensions the logarithm of the distance 1 - similarity to the nearest of many random points has a
    Gumbel distribution (of minima), whose left tail falls as exp(m x). It is fitted by maximum likelihood to the
    clips that are farther than the median, of which its truncation there says how many clips without a copy, N0, there
    are in all. So up to half of the clips may have copies. With F, its distribution function, N0 F(x) clips without a
    copy are expected below x. The threshold is the largest x at which these are at most FALSE_SHARE of the clips that
    are there (a false-discovery rate with an empirical null, Efron 2004, doi 10.1198/016214504000000089; its form is
    ours, see docs/method.md), half-way to the next clip.

    Without such a distance there is no threshold. So it is with fewer than FEWEST clips.
    """
    near = similarity[np.isfinite(similarity)]
    x = np.sort(np.log(np.maximum(1.0 - near.astype(np.float64), NEAREST_1)))
    low, high = np.log10(NEAREST_1), np.log10(2.0)
    edges = np.linspace(low, high, int((high - low) * BINS_PER_DECADE) + 2)
    shown = np.histogram(x / np.log(10), edges)[0].tolist(), (1 - 10**edges).tolist()
    if len(x) < FEWEST:
        return Threshold(*shown, None, f"{len(x)} clips can be compared: too few to tell duplicates by their distances")
    expected = _expected(x)
    good = np.flatnonzero(expected <= FALSE_SHARE * np.arange(1, len(x) + 1))
    last = int(good[-1]) if len(good) else 0
    if not 0 < last < len(x) - 1:  # One clip alone has no copy.
        return Threshold(*shown, None, "no clips stand out as nearer to their neighbours than all others are")
    why = f"of {last + 1} clips that are so near to another, {expected[last]:.2g} are expected without copies"
    return Threshold(*shown, float(1 - np.exp((x[last] + x[last + 1]) / 2)), why)


def _expected(x: np.ndarray) -> np.ndarray:
    """Return how many clips without a copy are expected at or below each distance, float64 [clips].

    x: logarithms of distances, ascending. exp(x) of a Gumbel distribution of minima is a Weibull distribution:
    P(X > x) = exp(-rate exp(shape x)). For each shape the best rate is known, so one number is looked for.
    """
    from scipy.optimize import minimize_scalar

    middle = float(np.median(x))
    far = x[x > middle]
    if not len(far) or far[-1] - middle < 1e-9:
        return np.full(len(x), np.inf)
    y, end = far - far[-1], middle - far[-1]  # At most 0: no power overflows.

    def excess(shape: float) -> float:
        return float(np.mean(np.exp(shape * y)) - np.exp(shape * end))

    def loss(log_shape: float) -> float:
        shape = float(np.exp(log_shape))
        return float(np.log(max(excess(shape), 1e-300)) - shape * y.mean() - log_shape)

    shape = float(np.exp(minimize_scalar(loss, bounds=tuple(np.log(SHAPES)), method="bounded").x))
    hazard = np.exp(shape * (x - far[-1])) / max(excess(shape), 1e-300)
    beyond = np.exp(-np.exp(shape * end) / max(excess(shape), 1e-300))  # P(X > middle)
    without = min(float(len(x)), len(far) / max(float(beyond), 1e-9))
    return np.asarray(without * -np.expm1(-hazard))
