"""k-means of the cluster stage, against faiss called directly and scikit-learn's, at equal k and iterations.

    PYTHONPATH=. python benchmarks/cluster.py [--clips 50000] [--width 64] [--k 256] [--iterations 20]

Points are drawn around 100 places, as features of a trained encoder might lie. Everyone gets the same points and
the same number of threads. The objective is the mean squared distance to the nearest centroid, of all points.
MiniBatchKMeans looks at fewer points in an iteration and ends at a worse objective: a second table has the time to that
objective.
"""

import os

import faiss
import numpy as np
from side_by_side import contest, parser, record, show
from sklearn.cluster import KMeans, MiniBatchKMeans
from threadpoolctl import threadpool_limits

from xdc_core.clustering.kmeans import kmeans


def draw(clips: int, width: int) -> np.ndarray:
    """float32 [clips, width], each row of length 1."""
    rng = np.random.default_rng(0)
    places = rng.normal(size=(100, width))
    points = places[rng.integers(100, size=clips)] + rng.normal(size=(clips, width))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def main() -> None:
    """Print the table and everyone's objective."""
    arguments = parser(__doc__)
    arguments.add_argument("--clips", type=int, default=50_000)
    arguments.add_argument("--width", type=int, default=64)
    arguments.add_argument("--k", type=int, default=256)
    arguments.add_argument("--iterations", type=int, default=20)
    given = arguments.parse_args()
    points, k, iterations = draw(given.clips, given.width), given.k, given.iterations
    threads = len(os.sched_getaffinity(0))
    faiss.omp_set_num_threads(threads)
    centroids: dict[str, np.ndarray] = {}

    def ours(iterations: int = iterations) -> np.ndarray:
        centroids["xdc"] = kmeans(points, k, iterations, 0, threads)[0]
        return centroids["xdc"]

    def directly() -> None:
        means = faiss.Kmeans(given.width, k, niter=iterations, seed=0, max_points_per_centroid=given.clips)
        means.train(points)
        means.assign(points)  # The cluster stage tells sizes, too.
        centroids["faiss.Kmeans"] = means.centroids.reshape(k, -1)

    def lloyd() -> None:
        means = KMeans(k, init="random", n_init=1, max_iter=iterations, tol=0, random_state=0).fit(points)
        centroids["scikit-learn KMeans"] = means.cluster_centers_

    def batches() -> None:
        means = MiniBatchKMeans(k, n_init=1, max_iter=iterations, random_state=0, init="random").fit(points)
        centroids["scikit-learn MiniBatchKMeans"] = means.cluster_centers_

    contestants = {
        "xdc": ours,
        "faiss.Kmeans": directly,
        "scikit-learn KMeans": lloyd,
        "scikit-learn MiniBatchKMeans": batches,
    }
    with threadpool_limits(threads):
        found = contest("k-means", "points x iterations", given.clips * iterations, contestants, given.turns)
    show(found, "xdc")
    objectives = {name: objective(points, places) for name, places in centroids.items()}
    for name, value in objectives.items():
        print(f"  objective {name:<32}{value:.5f}  ({value / objectives['xdc']:.4f} of ours)")
    theirs = objectives["scikit-learn MiniBatchKMeans"]
    enough = next((n for n in range(1, iterations + 1) if objective(points, ours(n)) <= theirs), None)
    contests = [found]
    if enough:
        pair = {f"xdc, {enough} iterations": lambda: ours(enough), "MiniBatchKMeans": batches}
        with threadpool_limits(threads):
            contests.append(contest(f"k-means to the objective {theirs:.5f}", "times", 1, pair, given.turns))
        print()
        show(contests[-1], f"xdc, {enough} iterations")
    record(given.out, contests=contests, objectives=objectives, sizes=vars(given) | {"out": None})


def objective(points: np.ndarray, centroids: np.ndarray) -> float:
    """Mean squared distance to the nearest centroid."""
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(np.ascontiguousarray(centroids, np.float32))
    return float(index.search(points, 1)[0].mean())


if __name__ == "__main__":
    main()
