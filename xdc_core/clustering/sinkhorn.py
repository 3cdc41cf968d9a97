"""Clusters of equal size by entropic optimal transport, over points that come in parts (Sinkhorn and Knopp).

A plan gives every one of n points the mass 1/n and every one of k clusters the mass 1/k; moving mass from a point to a
cluster costs the squared distance to its centroid. Of all plans the one with the least cost, less `temperature` times
its entropy, is P[i, j] = exp((potential[j] - squared distance[i, j]) / temperature), with rows scaled to 1/n. Only the
k potentials have to be found, so an iteration needs one pass over the points and adds k numbers.

Sources: Cuturi 2013; as pseudo-labels: SeLa and SeLaVi (which transport the probabilities of the encoder's own heads)
and SwAV (which transports similarities to prototypes, as here).
"""

from collections.abc import Iterator

import numpy as np

VALUES = 1 << 22  # Distances that are in memory at once, 32 MB.


def _parts(points: np.ndarray, centroids: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield squared distances, float64 [rows, k], of some rows of the points at a time."""
    import faiss

    rows = max(1, VALUES // len(centroids))
    for first in range(0, len(points), rows):
        part = slice(first, min(first + rows, len(points)))
        yield part, np.maximum(faiss.pairwise_distances(points[part], centroids), 0).astype(np.float64)


def moments(points: np.ndarray) -> np.ndarray:
    """Return the sum of the squared lengths of points, float32 [n, d], and the sum of the points: float64 [1 + d]."""
    exact = points.astype(np.float64)
    return np.concatenate([[np.square(exact).sum()], exact.sum(axis=0)])


def mean_squared_distance(sums: np.ndarray, clips: int) -> float:
    """Return the mean squared distance between two points, from the moments of all: twice their variance."""
    return float(2 * (sums[0] / clips - np.square(sums[1:] / clips).sum()))


def log_masses(points: np.ndarray, centroids: np.ndarray, potentials: np.ndarray, temperature: float) -> np.ndarray:
    """Return the logarithm of the mass of each cluster, float64 [k], if every point has the mass 1.

    potentials: float64 [k], in units of squared distances, as is `temperature`. Computed with logarithms, so a cluster
    far from every point has a small mass and not none.
    """
    found = np.full(len(centroids), -np.inf)
    for _, squared in _parts(points, centroids):
        scores = (potentials - squared) / temperature
        largest = scores.max(axis=1, keepdims=True)
        scores -= largest + np.log(np.exp(scores - largest).sum(axis=1, keepdims=True))
        largest = scores.max(axis=0)
        found = np.logaddexp(found, largest + np.log(np.exp(scores - largest).sum(axis=0)))
    return found


def balanced(potentials: np.ndarray, masses: np.ndarray, clips: int, temperature: float) -> tuple[np.ndarray, float]:
    """Return the potentials after an iteration, float64 [k] with mean 0, and how unequal the clusters were before.

    masses: logarithms, of all points. The second number is the share of all mass that would have to move for equal
    clusters, from 0 to 1.
    """
    k = len(potentials)
    uneven = float(np.abs(np.exp(masses) / clips - 1 / k).sum() / 2)
    changed = potentials - temperature * (masses - np.log(clips / k))
    return changed - changed.mean(), uneven


def assign(points: np.ndarray, centroids: np.ndarray, potentials: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return each point's distance, float32 [n], to the centroid of its cluster in the plan, the cluster's number,
    int64 [n], and how many points have another centroid that is nearer.

    The cluster is the one that gets most of the point's mass. For equal potentials it is that of the nearest centroid.
    """
    cluster, elsewhere = np.empty(len(points), np.int64), 0
    for part, squared in _parts(points, centroids):
        cluster[part] = (squared - potentials).argmin(axis=1)
        elsewhere += int((cluster[part] != squared.argmin(axis=1)).sum())
    distance = np.linalg.norm(points - centroids[cluster], axis=1)
    return distance.astype(np.float32), cluster, elsewhere
