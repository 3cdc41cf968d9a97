"""The clustering algorithms by name: k-means, and those that installed packages add."""

from pydantic import Field

from shards.registry import Registry
from shards.section import Section
from xdc_core.clustering.clusterer import Clusterer


class KmeansSettings(Section):
    """The settings of k-means."""

    iterations: int = Field(20, ge=1, description="k-means iterations (20 in DeepCluster)")


KMEANS = Clusterer("kmeans", KmeansSettings, "xdc_core.clustering.kmeans", uses_gpus=True)
CLUSTERERS: Registry[Clusterer] = Registry(
    "clustering algorithm", "xdc.clusterers", {KMEANS.name: KMEANS}, of=Clusterer
)
