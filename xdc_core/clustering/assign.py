"""The nearest centroid of every point."""

from io import BytesIO
from pathlib import Path

import numpy as np

from shards.errors import StageError
from shards.store.checked_read import read_stored, remedy_of


def nearest(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every point, float32 [n, d]: the Euclidean distance to its nearest centroid, and that centroid's number."""
    import faiss

    if not len(points):
        return np.empty(0, np.float32), np.empty(0, np.int64)
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    squared, found = index.search(points, 1)
    return np.sqrt(np.maximum(squared[:, 0], 0)), found[:, 0]


def read_centroids(clusters: Path) -> np.ndarray:
    """float32 [k, components]. Raises StageError where the file is missing or damaged."""
    path = clusters / "centroids.npy"
    try:
        return np.load(BytesIO(read_stored(path, "cluster")), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise StageError(f"{path} cannot be read ({error}). {remedy_of(path, 'cluster')}") from error
