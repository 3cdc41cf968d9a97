"""Clusters found in few clips after PCA: whitened, whitened with fewer components, and not whitened.

    PYTHONPATH=. python benchmarks/whitening.py [--clips 500 1000 3000 10000] [--pca 256] [--per-component 15]
      [--draws 3]

Clips are drawn around 32 places in 512 dimensions, with noise that is equal in all directions, or is large in a few and
small in most, as in features of encoders. A cell is the AMI of k-means with the places, the mean over draws.
"""

import argparse

import faiss
import numpy as np
from sklearn.metrics import adjusted_mutual_info_score

from xdc_core.clustering.assign import nearest
from xdc_core.clustering.kmeans import kmeans
from xdc_core.clustering.preprocess import fit_preprocess
from xdc_core.config.clustering import ClusterSettings

PLACES, WIDTH, THREADS = 32, 512, 1
# The deviation of the noise in direction i is i to this power; and how far the places are apart.
KINDS = {"equal noise": (0.0, 0.4), "noise in few directions": (-0.5, 0.4)}


def draw(clips: int, power: float, apart: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [clips, WIDTH], and the place of each."""
    dice = np.random.default_rng(seed)
    own = dice.integers(PLACES, size=clips)
    deviations = np.arange(1, WIDTH + 1) ** power
    deviations /= np.sqrt((deviations**2).mean())
    turned = np.linalg.qr(dice.normal(size=(WIDTH, WIDTH)))[0]
    places = dice.normal(size=(PLACES, WIDTH))
    places *= apart * WIDTH**0.5 / np.linalg.norm(places, axis=1, keepdims=True)
    return (places[own] + (dice.normal(size=(clips, WIDTH)) * deviations) @ turned).astype(np.float32), own


def found(points: np.ndarray, own: np.ndarray, settings: ClusterSettings) -> float:
    """AMI of the clusters with the places."""
    preprocess, _ = fit_preprocess([points], settings)
    mapped = preprocess([points])
    centroids, _ = kmeans(mapped, PLACES, 20, 0, THREADS)
    return float(adjusted_mutual_info_score(own, nearest(mapped, centroids)[1]))


def main() -> None:
    """Print a table per kind of noise."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--clips", type=int, nargs="+", default=[500, 1000, 3000, 10_000])
    arguments.add_argument("--pca", type=int, default=256)
    arguments.add_argument("--per-component", type=int, default=15)
    arguments.add_argument("--draws", type=int, default=3)
    given = arguments.parse_args()
    faiss.omp_set_num_threads(THREADS)
    ways = {
        f"PCA {given.pca}, whitened": {"pca": given.pca},
        f"whitened, one component per {given.per_component} clips": {
            "pca": given.pca,
            "clips_per_component": given.per_component,
        },
        f"PCA {given.pca}, not whitened": {"pca": given.pca, "whiten": False},
    }
    seeds = range(given.draws)
    for kind, (power, apart) in KINDS.items():
        print(f"| {kind} | {' | '.join(f'{clips:,}' for clips in given.clips)} |")
        print("|---" * (1 + len(given.clips)) + "|")
        for name, values in ways.items():
            cells = [
                np.mean([found(*draw(clips, power, apart, seed), ClusterSettings(**values)) for seed in seeds])
                for clips in given.clips
            ]
            print(f"| {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |", flush=True)
        print()


if __name__ == "__main__":
    main()
