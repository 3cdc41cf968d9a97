"""The clusters that a cluster stage has written: the nearest one of every clip, and the table that labels become."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from xdc_core.clustering.clusterer import Clusterer
from xdc_core.clustering.model import read_model
from xdc_core.clustering.preprocess import Preprocess, load_preprocess
from xdc_core.clustering.registry import CLUSTERERS
from xdc_core.data.label_scores import Assigned, Labels
from xdc_core.data.labels import label_column
from xdc_core.documents.kmeans import read_kmeans


@dataclass(frozen=True)
class FrozenClusters:
    """The clusters of a label source, and how features are preprocessed for them.

    k: clusters of each clustering. models: one for each clustering (`cluster.heads`), arrays by name.
    """

    k: int
    clusterer: Clusterer
    models: list[dict[str, np.ndarray]]
    preprocess: Preprocess

    def assign(self, points: np.ndarray) -> list[Assigned]:
        """Return, for each clustering, the cluster of each preprocessed point, float32 [n, components], and its
        distance; for k-means the nearest centroid and the Euclidean distance to it.
        """
        return [Assigned(*self.clusterer.assign(model, points, self.k)) for model in self.models]


def read_clusters(directory: Path) -> FrozenClusters:
    """Read what a cluster stage has written.

    Raises:
        StageError: a file is missing or damaged.
        ConfigError: the package that gives the algorithm cannot be loaded.
    """
    kmeans = read_kmeans(directory)
    clusterer = CLUSTERERS.find(kmeans.algorithm)
    models = [read_model(directory, clusterer, head) for head in range(kmeans.heads)]
    return FrozenClusters(kmeans.k, clusterer, models, load_preprocess(directory / "preprocess.npz"))


def label_table(labels: Labels) -> pa.Table:
    """Return labels as a table: key, cluster (int32), distance (float32); cluster_1, distance_1 of a second clustering,
    and so on.
    """
    table = {"key": labels.keys}
    for head, own in enumerate(labels.clusterings):
        table[label_column("cluster", head)] = pa.array(own.cluster, pa.int32())
        table[label_column("distance", head)] = pa.array(own.distance, pa.float32())
    return pa.table(table)
