"""k-means with faiss, on GPUs if there are any."""

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
    """Return the Euclidean distance of each point to its nearest centroid, and the centroid's number."""
    return nearest(points, model["centroids"])


def kmeans(
    points: np.ndarray, k: int, iterations: int, seed: int, threads: int, gpus: int = 0
) -> tuple[np.ndarray, dict[str, Any]]:
    """Cluster points, float32 [n, d], n >= k, with faiss's k-means, which uses all of them.

    Return centroids, float32 [k, d], and details.

    With `gpus` it runs on all GPUs that faiss sees. If their memory is not sufficient it runs on the CPU, with a
    warning on stderr.

    Details: objective per iteration (sum of squared distances), final sizes, the number of empty clusters at
    the end, the number refilled by splitting a large one, and where it ran.

    Raises:
        RuntimeError: k-means fails for another reason than lack of GPU memory.
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
            # By default faiss silently trains on 256 points per centroid, and warns below 39.
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
