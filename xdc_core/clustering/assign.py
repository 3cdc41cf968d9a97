"""The nearest centroid of every point."""

import numpy as np


def nearest(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return of every point, float32 [n, d], the Euclidean distance to its nearest centroid, and that one's number."""
    import faiss

    if not len(points):
        return np.empty(0, np.float32), np.empty(0, np.int64)
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    squared, found = index.search(points, 1)
    return np.sqrt(np.maximum(squared[:, 0], 0)), found[:, 0]
