"""The most similar other clips of every clip, looked for inside clusters (SemDeDup, arXiv 2303.09540)."""

from dataclasses import dataclass

import numpy as np

from shards.progress import Progress, silent
from xdc_core.clustering.kmeans import kmeans
from xdc_core.clustering.preprocess import unit_length
from xdc_core.curation.points import Points

NEAREST = 16  # The neighbours per clip that are kept. Whoever has more copies is looked at again without those found.
WHOLE = 2_000  # Up to so many clips all pairs are compared; clusters of more are made smaller.
PER_CLUSTER = 1_000  # Clips per cluster that is made here.
SAMPLED = 100  # Clips per cluster that k-means is fitted to.
ITERATIONS = 10
TILE = 1 << 23  # Similarities that are in memory at once.


def cluster_starts(points: Points, clusters: np.ndarray | None, seed: int, threads: int) -> np.ndarray:
    """Return the centres of the clusters in which neighbours are looked for, float32 [k, width].

    clusters: int [clips], the run's own, -1 for a clip without one; or None. Their centres are used if none holds more
    than WHOLE clips. Otherwise k-means finds clusters of PER_CLUSTER clips on average, fitted to SAMPLED
    per cluster. Up to WHOLE clips are one cluster.
    """
    count = len(points)
    if count <= WHOLE:
        return points.vectors.mean(axis=0, keepdims=True)
    if clusters is not None and (clusters >= 0).any() and np.bincount(clusters[clusters >= 0]).max() <= WHOLE:
        names, number = np.unique(clusters, return_inverse=True)
        centres = np.zeros((len(names), points.vectors.shape[1]), np.float32)
        for start in range(0, count, PER_CLUSTER):
            rows = slice(start, start + PER_CLUSTER)
            np.add.at(centres, number[rows], points.vectors[rows])
        return np.ascontiguousarray(unit_length(centres[names >= 0]))
    k = -(-count // PER_CLUSTER)
    drawn = np.sort(np.random.default_rng(seed).permutation(count)[: SAMPLED * k])
    centres, _ = kmeans(np.ascontiguousarray(points.vectors[drawn]), k, ITERATIONS, seed, threads)
    # A mean of many unlike clips is short, and would be the second nearest centre of most clips.
    return np.ascontiguousarray(unit_length(centres))


def two_nearest(points: Points, centres: np.ndarray) -> np.ndarray:
    """Return the numbers of the two nearest centres of every point, int64 [clips, 2]; of one centre, [clips, 1]."""
    import faiss

    index = faiss.IndexFlatL2(centres.shape[1])
    index.add(centres)
    wanted = min(2, len(centres))
    found = np.empty((len(points), wanted), np.int64)
    for start in range(0, len(points), 1 << 14):
        rows = slice(start, start + (1 << 14))
        found[rows] = index.search(np.ascontiguousarray(points.vectors[rows]), wanted)[1]
    return found


@dataclass(frozen=True)
class Spans:
    """Where clips come from. source: int [clips]. start_s, end_s: float64 [clips], or None. side: [clips], or None.

    Clips of one source are not compared; with start_s and end_s only those that overlap in time are not. Clips of one
    side are not compared.
    """

    source: np.ndarray
    start_s: np.ndarray | None = None
    end_s: np.ndarray | None = None
    side: np.ndarray | None = None

    def same(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return which pairs of clips are not compared, bool [rows, others]: at least each clip with itself."""
        same: np.ndarray = self.source[rows][:, None] == self.source[others][None]
        if self.start_s is not None and self.end_s is not None:
            same &= self.start_s[rows][:, None] < self.end_s[others][None]
            same &= self.start_s[others][None] < self.end_s[rows][:, None]
        if self.side is not None:
            same |= self.side[rows][:, None] == self.side[others][None]
        return same


@dataclass(frozen=True)
class Neighbours:
    """The most similar other clips of every clip, most similar first.

    similarity: float32 [clips, NEAREST], -inf where there are no more. row: int32 [clips, NEAREST], their numbers.
    """

    similarity: np.ndarray
    row: np.ndarray


def find_neighbours(
    points: Points,
    centres: np.ndarray,
    spans: Spans,
    active: np.ndarray | None = None,
    progress: Progress = silent,
) -> Neighbours:
    """Return the neighbours of every clip among the clips of its two nearest clusters.

    A pair is compared if the clips share one of their two nearest clusters (SemDeDup has one cluster per clip, and
    loses pairs on both sides of a border; ours). active: bool [clips], which clips take part.
    """
    count, near = len(points), two_nearest(points, centres)
    found = Neighbours(np.full((count, NEAREST), -np.inf, np.float32), np.full((count, NEAREST), -1, np.int32))
    members = near.ravel()
    order = np.argsort(members, kind="stable")
    bounds = np.searchsorted(members[order], np.arange(len(centres) + 1))
    for cluster in range(len(centres)):
        rows = np.sort(order[bounds[cluster] : bounds[cluster + 1]] // near.shape[1])
        if active is not None:
            rows = rows[active[rows]]
        if len(rows) > 1:
            _compare(points, rows, spans, found)
        progress(cluster + 1, len(centres), "clusters compared")
    return found


def _compare(points: Points, rows: np.ndarray, spans: Spans, found: Neighbours) -> None:
    """Add the neighbours of some clips among themselves, a tile of similarities after the other."""
    vectors = np.ascontiguousarray(points.vectors[rows])
    step = max(1, TILE // len(rows))
    for start in range(0, len(rows), step):
        own = rows[start : start + step]
        similar = vectors[start : start + step] @ vectors.T
        similar[spans.same(own, rows)] = -np.inf
        kept = min(NEAREST, len(rows))
        best = np.argpartition(similar, -kept, axis=1)[:, -kept:]
        values = np.concatenate([found.similarity[own], np.take_along_axis(similar, best, axis=1)], axis=1)
        others = np.concatenate([found.row[own], rows[best].astype(np.int32)], axis=1)
        # Two clips that share both of their clusters have met before.
        by_row = np.argsort(others, axis=1, kind="stable")
        others, values = (np.take_along_axis(array, by_row, axis=1) for array in (others, values))
        again = others[:, 1:] == others[:, :-1]
        values[:, 1:][again] = -np.inf
        first = np.argsort(-values, axis=1, kind="stable")[:, :NEAREST]
        found.similarity[own] = np.take_along_axis(values, first, axis=1)
        found.row[own] = np.take_along_axis(others, first, axis=1)
