"""k-means of faiss, on GPUs where there are some."""

import sys
from typing import Any

import numpy as np

from xdc_core.clustering.assign import nearest
from xdc_core.clustering.clusterer import Model
from xdc_core.clustering.registry import KmeansSettings


def fit(
    points: np.ndarray, k: int, settings: KmeansSettings, seed: int, threads: int, gpus: int
) -> tuple[Model, dict[str, Any]]:
    """Fit k clusters as `kmeans` does. The model has one array, `centroids`, float32 [k, d]."""
    centroids, details = kmeans(points, k, settings.iterations, seed, threads, gpus)
    return {"centroids": centroids}, details


def assign(model: Model, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return of every point the Euclidean distance to its nearest centroid, and that one's number."""
    return nearest(points, model["centroids"])


def kmeans(
    points: np.ndarray, k: int, iterations: int, seed: int, threads: int, gpus: int = 0
) -> tuple[np.ndarray, dict[str, Any]]:
    """Cluster points, float32 [n, d], n >= k, with faiss's k-means, which uses all of them.

    Returns centroids, float32 [k, d], and details.

    With `gpus` it runs on all GPUs that faiss sees; where these have no memory left it runs on the CPU, and a warning
    on stderr says so.

    Details: objective per iteration (sum of squared distances), sizes at the end, how many clusters ended empty and
    how many were refilled by splitting a large one on the way, and where it ran.

    Raises:
        RuntimeError: k-means fails, but for want of memory on a GPU.
    """
    import faiss

    faiss.omp_set_num_threads(threads)

    def trained(on_gpus: bool) -> tuple[Any, np.ndarray]:
        means = faiss.Kmeans(
            points.shape[1],
            k,
            niter=iterations,
            seed=seed,
            gpu=on_gpus,
            # faiss otherwise trains on 256 points a centroid without saying so, and complains below 39.
            max_points_per_centroid=-(-len(points) // k),
            min_points_per_centroid=1,
        )
        means.train(points)
        return means, means.assign(points)[1]

    where = f"{gpus} GPUs" if gpus else f"CPU, {threads} threads"
    try:
        means, own = trained(bool(gpus))
    except RuntimeError as error:
        if not gpus or "out of memory" not in str(error):
            raise
        where = f"CPU, {threads} threads (no memory left on the GPU)"
        print(f"warning: k-means on {where}: {str(error).strip()}", file=sys.stderr, flush=True)
        means, own = trained(False)
    sizes = np.bincount(own, minlength=k)
    steps = means.iteration_stats or []
    details = {
        "objective": [float(step["obj"]) for step in steps],
        "splits": int(sum(step["nsplit"] for step in steps)),
        "sizes": sizes.tolist(),
        "empty": int((sizes == 0).sum()),
        "on": where,
    }
    return np.asarray(means.centroids, np.float32).reshape(k, -1), details
