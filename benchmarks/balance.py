"""Balanced labels: how equal clusters become with the temperature and the iterations, on planted unequal clusters.

    PYTHONPATH=. python benchmarks/balance.py [--clips 6000] [--width 32] [--k 32]

The clips lie around 20 places, the n-th of which has a share of 1/n of them; k-means then finds clusters of unequal
sizes. Printed per temperature: the sizes by nearest centroid, and after some iterations the share of the mass that
would have to move, the smallest and the largest cluster, and the mean squared distance to the own centroid.
"""

import argparse

import numpy as np

from xdc_core.clustering.kmeans import kmeans
from xdc_core.clustering.sinkhorn import assign, balanced, log_masses, mean_squared_distance, moments

SHOWN = (10, 20, 50, 100, 200)


def draw(clips: int, width: int, noise: float) -> np.ndarray:
    """Return float32 [clips, width], each row of length 1."""
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, 21)
    points = rng.normal(size=(20, width))[rng.choice(20, clips, p=shares / shares.sum())]
    points = points + noise * rng.normal(size=(clips, width))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def shown(points: np.ndarray, centroids: np.ndarray, potentials: np.ndarray) -> str:
    """Return the last cells of a row: the smallest and the largest cluster, and the mean squared distance."""
    distance, cluster, _ = assign(points, centroids, potentials)
    sizes = np.bincount(cluster, minlength=len(centroids))
    return f"{sizes.min()} | {sizes.max()} | {np.square(distance).mean():.3f} |"


def main() -> None:
    """Print a table for well separated and for blurred clusters."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--clips", type=int, default=6000)
    arguments.add_argument("--width", type=int, default=32)
    arguments.add_argument("--k", type=int, default=32)
    given = arguments.parse_args()
    print("| clusters | temperature | iterations | uneven mass | smallest | largest | squared distance |")
    print("|---|---|---|---|---|---|---|")
    for name, noise in (("separated", 0.3), ("blurred", 1.5)):
        points = draw(given.clips, given.width, noise)
        centroids, _ = kmeans(points, given.k, 20, 0, 1)
        scale = mean_squared_distance(moments(points), len(points))
        print(f"| {name} | nearest | | | {shown(points, centroids, np.zeros(given.k))}")
        for share in (0.01, 0.025, 0.05, 0.1):
            potentials = np.zeros(given.k)
            for number in range(1, SHOWN[-1] + 1):
                masses = log_masses(points, centroids, potentials, share * scale)
                potentials, uneven = balanced(potentials, masses, len(points), share * scale)
                if number in SHOWN:
                    cells = shown(points, centroids, potentials)
                    print(f"| {name} | {share:g} | {number} | {uneven:.4f} | {cells}", flush=True)


if __name__ == "__main__":
    main()
