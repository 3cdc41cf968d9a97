"""The ranks of a query's partner, or of clips with its label, among all candidates.

Cosines that agree to nine digits count as equal, because BLAS may give equal vectors cosines that differ in the last
digits. Every order of equal cosines is equally likely; the functions return expected values over these orders.
"""

from collections.abc import Iterator, Sequence

import numpy as np

DIGITS = 9
# Number of cosines in memory at once: 16 MB of float64.
CHUNK = 1 << 21


def partner_ranks(queries: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count, for each query, the candidates that are nearer than its partner, and those as near, including the partner.

    queries, candidates: float64 [n, components] of length 1; row i of one is the partner of row i of the other. Returns
    int64 [n] twice.
    """
    nearer, equal = np.empty(len(queries), np.int64), np.empty(len(queries), np.int64)
    for part, cosines in _cosines(queries, candidates):
        own = cosines[np.arange(len(part)), part, None]
        nearer[part], equal[part] = (cosines > own).sum(axis=1), (cosines == own).sum(axis=1)
    return nearer, equal


def mean_ranks(nearer: np.ndarray, equal: np.ndarray) -> np.ndarray:
    """Return the expected rank of each query's partner, from 1: float64 [n]."""
    return nearer + (equal + 1) / 2


def partner_recall(nearer: np.ndarray, equal: np.ndarray, k: int) -> float:
    """Return the expected share of queries whose partner is among the first k."""
    return float(np.clip((k - nearer) / equal, 0, 1).mean())


def class_recall(queries: np.ndarray, candidates: np.ndarray, labels: np.ndarray, at: Sequence[int]) -> list[float]:
    """Return per k the expected share of queries with a clip of their label (also the partner) among the first k."""
    recalled = np.empty((len(at), len(queries)))
    counts = [min(k, len(candidates)) for k in at]
    for part, cosines in _cosines(queries, candidates):
        same = labels[part, None] == labels
        edges = np.partition(cosines, [len(candidates) - count for count in counts], axis=1)
        for row, count in enumerate(counts):
            edge = edges[:, len(candidates) - count, None]
            above, tied = cosines > edge, cosines == edge
            missed = none_drawn(tied.sum(axis=1), (tied & same).sum(axis=1), count - above.sum(axis=1))
            recalled[row, part] = np.where((above & same).any(axis=1), 1, 1 - missed)
    return recalled.mean(axis=1).tolist()


def class_chance(labels: np.ndarray, at: Sequence[int], partner: bool = True) -> list[float]:
    """Return per k the exact expectation of `class_recall` for a random order. partner: whether it counts, too."""
    _, class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    total, wanted = (len(labels), sizes[class_of]) if partner else (len(labels) - 1, sizes[class_of] - 1)
    return [float(1 - none_drawn(total, wanted, min(k, total)).mean()) for k in at]


def none_drawn(total: np.ndarray | int, wanted: np.ndarray, draws: np.ndarray | int) -> np.ndarray:
    """Return the probability that `draws` of `total` clips have none of the `wanted` ones (hypergeometric)."""
    from scipy.stats import hypergeom

    return np.asarray(hypergeom.pmf(0, total, wanted, draws))


def _cosines(queries: np.ndarray, candidates: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield chunks: rows of queries, int64 [chunk], and their cosines with all candidates, float64 [chunk, n]."""
    step = max(1, CHUNK // len(candidates))
    for first in range(0, len(queries), step):
        part = np.arange(first, min(first + step, len(queries)))
        yield part, np.round(queries[part] @ candidates.T, DIGITS)
