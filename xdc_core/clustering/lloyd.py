"""Lloyd's iterations over points that come in parts: the sums of the parts, and the move of the centroids."""

from dataclasses import dataclass

import numpy as np

from xdc_core.clustering.assign import nearest


@dataclass
class Sums:
    """What an iteration needs to know of some points.

    vectors: sum of the points of each cluster, float64 [k, d]; [k, 0] if it is not needed. sizes: points per cluster,
    int64 [k]. objective: sum of squared distances to the nearest centroid.
    """

    vectors: np.ndarray
    sizes: np.ndarray
    objective: float = 0.0

    def add_points(self, points: np.ndarray, centroids: np.ndarray) -> None:
        """Add points, float32 [n, d], each to the cluster of its nearest centroid, float32 [k, d]."""
        if not len(points):
            return
        distance, cluster = nearest(points, centroids)
        if self.vectors.shape[1]:
            order = np.argsort(cluster, kind="stable")
            occupied, first = np.unique(cluster[order], return_index=True)
            self.vectors[occupied] += np.add.reduceat(points[order].astype(np.float64), first, axis=0)
        self.sizes += np.bincount(cluster, minlength=len(self.sizes))
        self.objective += float(np.square(distance, dtype=np.float64).sum())

    def add(self, other: "Sums") -> None:
        """Add the sums of other points."""
        self.vectors += other.vectors
        self.sizes += other.sizes
        self.objective += other.objective


def no_sums(k: int, width: int) -> Sums:
    """Return the sums of no points. width: of the points; 0 if only sizes and objective are needed."""
    return Sums(np.zeros((k, width)), np.zeros(k, np.int64))


def moved(sums: Sums, seed: int) -> tuple[np.ndarray, int]:
    """Return the centroids after an iteration, float32 [k, d], and the number of empty clusters that were refilled.

    A centroid moves to the mean of its points. An empty cluster is refilled as faiss does: a large one is split.

    sums: of all points, at least k.
    """
    from faiss.contrib.clustering import reassign_centroids

    sizes = sums.sizes.copy()  # It is changed where clusters are split.
    centroids = (sums.vectors / np.maximum(sizes, 1)[:, None]).astype(np.float32)
    splits = reassign_centroids(sizes, centroids, np.random.RandomState(seed))
    return centroids, int(splits)
