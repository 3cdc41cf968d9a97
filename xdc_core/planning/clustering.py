"""The rate of clustering, on random points with the true number of clusters and of values."""

import time
from dataclasses import dataclass

import numpy as np

from xdc_core.clustering.preprocess import fit_preprocess
from xdc_core.compute.kmeans_check import faiss_gpus
from xdc_core.compute.threads import limit_faiss
from xdc_core.config.clustering import algorithm_of
from xdc_core.config.schema import Config
from xdc_core.stages.cluster import tries_gpus

ENOUGH_S = 1.0  # A fit that takes so long is measured well enough.
MOST_BYTES = 256e6  # Of the points.
ROWS_PER_CLUSTER = 40  # Fewer make k-means another problem.


@dataclass(frozen=True)
class ClusteringRate:
    """Seconds of a label source's clustering.

    fit_row_s: of preprocessing and all iterations of one clustering, a row of the sample. assign_row_s: of the
    assignment of a clip. rows: with how many points this was measured. widths: values of a clip before preprocessing.
    """

    fit_row_s: float
    assign_row_s: float
    rows: int
    widths: int


def clustering_rate(config: Config, source: str, widths: dict[str, int], k: int, rows: int) -> ClusteringRate:
    """Measure the clustering of a label source. widths: of the features it is clustered from, by modality.

    rows: the size of the sample that the run will fit to. At most so many points are used, and as many as take a
    second.
    """
    settings = config.cluster
    clusterer, own = algorithm_of(settings)
    threads = limit_faiss(config.runs_on)
    width = sum(widths.values())
    components = min(settings.pca or width, width)
    gpus = faiss_gpus()[0] if tries_gpus(settings, config.runs_on.device, rows, k, components) else 0
    most = max(k, min(rows, int(MOST_BYTES / (4 * width))))
    count = min(most, max(ROWS_PER_CLUSTER * k, 2048))
    random = np.random.default_rng(config.seed)
    while True:
        parts = [random.standard_normal((count, size), np.float32) for size in widths.values()]
        began = time.perf_counter()
        preprocess, _ = fit_preprocess(parts, settings, config.seed, list(widths))
        points = preprocess(parts)
        model, _ = clusterer.fit(points, k, own, config.seed, threads, gpus)
        fitted_s = time.perf_counter() - began
        if fitted_s >= ENOUGH_S or count == most:
            break
        count = min(most, 4 * count)
    began = time.perf_counter()
    clusterer.assign(model, preprocess(parts), k)
    return ClusteringRate(fitted_s / count, (time.perf_counter() - began) / count, count, width)
