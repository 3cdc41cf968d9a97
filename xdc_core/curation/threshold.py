"""The similarity above which clips are duplicates, from the distances of all clips to their nearest neighbours."""

from dataclasses import dataclass

import numpy as np

BINS_PER_DECADE = 20
SMOOTH = 1.5  # Bins: the deviation of the Gaussian with which the histogram is smoothed.
NEAREST_1 = 1e-6  # Distances are at least this: float32 does not tell smaller ones.
FARTHEST = 0.2  # Duplicates are nearer than this: the peak that is looked for is near a similarity of 1.
DEEPEST = 0.5  # A valley has at most this share of the height of the lower one of the peaks beside it.
CHANCE = 1e-3  # The likelihood that as many clips are so near without duplicates.
QUANTILES = (0.05, 0.5)  # Of the other clips' distances: their fit is exact there.


@dataclass(frozen=True)
class Valley:
    """The histogram of log10(1 - similarity) to the nearest neighbour, and the threshold that was found in it.

    counts: int [bins]. edges: of the bins, as similarity. threshold: None if no duplicates stand out. why: in words.
    """

    counts: list[int]
    edges: list[float]
    threshold: float | None
    why: str


def find_threshold(similarity: np.ndarray) -> Valley:
    """Return the similarity that separates duplicates from other clips, float32 [clips] to each nearest neighbour.

    Distances 1 - similarity have a logarithmic axis, on which duplicates (nearly 0) and other clips are two peaks, as
    copies are orders of magnitude nearer than clips that are merely alike. The threshold is the lowest place between
    the two (ours, see docs/method.md). To the left there must be more clips than the other clips' distances explain:
    in a space of m dimensions the logarithm of the distance to the nearest of many random points has a Gumbel
    distribution, whose left tail falls as exp(m x). It is fitted to the right of the valley, at QUANTILES; the number
    to the left must have a likelihood below CHANCE under it.

    Without such a valley there is no threshold. So it is with fewer than 8 clips, or if nearly all clips have
    duplicates.
    """
    near = similarity[np.isfinite(similarity)]
    x = np.log10(np.maximum(1.0 - near.astype(np.float64), NEAREST_1))
    low, high = np.log10(NEAREST_1), np.log10(2.0)
    edges = np.linspace(low, high, int((high - low) * BINS_PER_DECADE) + 2)
    counts = np.histogram(x, edges)[0]
    shown = counts.tolist(), (1 - 10**edges).tolist()
    if len(near) < 8:
        return Valley(*shown, None, f"{len(near)} clips can be compared: too few to tell duplicates by their distances")
    heights = _smoothed(counts)
    where, start = None, -np.inf
    for place in _valleys(heights):
        # From left to right: exact copies, then those that were encoded again. Each peak has to stand out by itself.
        if _stands_out(x[x >= start], edges[place + 1]):
            where, start = place, edges[place + 1]
    if where is None:
        return Valley(*shown, None, "no clips stand out as nearer to their neighbours than all others are")
    middle = 10 ** float((edges[where] + edges[where + 1]) / 2)
    return Valley(*shown, 1 - middle, "the valley between the distances of duplicates and those of other clips")


def _valleys(heights: np.ndarray) -> list[int]:
    """Return the lowest place between every two peaks with a valley between them, the middle of a flat one."""
    places = list[int]()
    for place in range(1, len(heights) - 1):
        left, right = heights[:place].max(), heights[place + 1 :].max()
        if heights[place] > DEEPEST * min(left, right) or heights[place] > min(heights[place - 1], heights[place + 1]):
            continue
        places.append(place)
    runs = np.split(np.array(places, np.int64), np.flatnonzero(np.diff(places) > 1) + 1) if places else []
    return [int(run[len(run) // 2]) for run in runs]


def _smoothed(counts: np.ndarray) -> np.ndarray:
    reach = np.arange(-6, 7)
    kernel = np.exp(-0.5 * (reach / SMOOTH) ** 2)
    smoothed: np.ndarray = np.convolve(counts, kernel / kernel.sum(), mode="same")
    return smoothed


def _stands_out(x: np.ndarray, edge: float) -> bool:
    """Return whether the clips below an edge are near, and more than the other clips' distances explain."""
    from scipy.stats import poisson

    left, right = x[x < edge], x[x >= edge]
    middle = float(np.median(left)) if len(left) else 0.0
    if len(left) < 2 or len(right) < 4 or middle > np.log10(FARTHEST):
        return False
    first, second = np.quantile(right, QUANTILES)
    # log(-log(1 - p)) at the quantiles, over their distance: the slope, which is the number of dimensions.
    tail, half = (float(np.log(-np.log1p(-p))) for p in QUANTILES)
    slope = (half - tail) / max(float(second - first), 1e-9)
    explained = len(right) * -np.expm1(-np.exp(np.clip(tail + slope * (middle - float(first)), -700, 50)))
    return bool(poisson.sf(len(left) / 2 - 1, max(explained, 1e-300)) < CHANCE)
