"""How near a query's partner, or a clip of its label, is among all that could be found.

Cosines that agree to nine digits are equal, for BLAS may give equal vectors cosines that differ in the last ones.
Among equal cosines every order is equally likely: what is returned is what is expected of it.
"""

from collections.abc import Iterator, Sequence

import numpy as np

DIGITS = 9
# How many cosines are held at once: 16 MB of float64.
CHUNK = 1 << 21


def partner_ranks(queries: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each query, how many of `found` are nearer than its partner, and how many are as near, the partner included.

    queries, found: float64 [n, components] of length 1, partners row by row. Returns int64 [n] twice.
    """
    nearer, equal = np.empty(len(queries), np.int64), np.empty(len(queries), np.int64)
    for part, cosines in _cosines(queries, found):
        own = cosines[np.arange(len(part)), part, None]
        nearer[part], equal[part] = (cosines > own).sum(axis=1), (cosines == own).sum(axis=1)
    return nearer, equal


def mean_ranks(nearer: np.ndarray, equal: np.ndarray) -> np.ndarray:
    """The expected rank of each query's partner, from 1: float64 [n]."""
    return nearer + (equal + 1) / 2


def partner_recall(nearer: np.ndarray, equal: np.ndarray, k: int) -> float:
    """The expected share of queries with their partner among the first k."""
    return float(np.clip((k - nearer) / equal, 0, 1).mean())


def class_recall(queries: np.ndarray, found: np.ndarray, labels: np.ndarray, at: Sequence[int]) -> list[float]:
    """The expected share of queries with a clip of their label among the first k, the partner included, per k."""
    hits = np.empty((len(at), len(queries)))
    counts = [min(k, len(found)) for k in at]
    for part, cosines in _cosines(queries, found):
        same = labels[part, None] == labels
        edges = np.partition(cosines, [len(found) - count for count in counts], axis=1)
        for row, count in enumerate(counts):
            edge = edges[:, len(found) - count, None]
            above, tied = cosines > edge, cosines == edge
            missed = _none_drawn(tied.sum(axis=1), (tied & same).sum(axis=1), count - above.sum(axis=1))
            hits[row, part] = np.where((above & same).any(axis=1), 1, 1 - missed)
    return hits.mean(axis=1).tolist()


def class_chance(labels: np.ndarray, at: Sequence[int]) -> list[float]:
    """What `class_recall` is for a random order, per k. Exact."""
    _, place, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return [float(1 - _none_drawn(len(labels), sizes[place], min(k, len(labels))).mean()) for k in at]


def _none_drawn(total: np.ndarray | int, wanted: np.ndarray, draws: np.ndarray | int) -> np.ndarray:
    """The probability that `draws` of `total` things have none of the `wanted` ones (hypergeometric)."""
    from scipy.stats import hypergeom

    return np.asarray(hypergeom.pmf(0, total, wanted, draws))


def _cosines(queries: np.ndarray, found: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunk by chunk: rows of queries, int64 [chunk], and their cosines with all of `found`, float64 [chunk, n]."""
    step = max(1, CHUNK // len(found))
    for first in range(0, len(queries), step):
        part = np.arange(first, min(first + step, len(queries)))
        yield part, np.round(queries[part] @ found.T, DIGITS)
