"""kmeans.json: the fit of one label source's clusters in one round."""

from pathlib import Path
from typing import Any

from pydantic import Field

from xdc_core.documents.document import Document, Number, read_document, write_document

FILE_NAME = "kmeans.json"


class Kmeans(Document):
    """The clustering of a label source.

    algorithm: its name; settings: its own. k: clusters. clips: clips to learn from; sample: number of clips
    for the fit. components: width of the clustered vectors. objective: a number per iteration, for k-means the sum of
    squared distances. splits: empty clusters that were refilled during the fit. sizes: points of the sample per
    cluster; empty: clusters without any. on: the device.

    iterations_over_all: iterations of k-means over all clips after those over the sample; with them, objective, sizes
    and empty are of all clips. sample_objective: the objective of the iterations before, over the sample.

    clusterings: with `cluster.heads` above 1, the same of the second and the further clusterings, which differ in seed.
    """

    algorithm: str = "kmeans"
    settings: dict[str, Any] = Field({})
    k: int
    clips: int
    sample: int
    components: int
    seed: int
    objective: list[Number] = Field([])
    splits: int = 0
    sizes: list[int] = Field([])
    empty: int = 0
    on: str = ""
    iterations_over_all: int = 0
    sample_objective: list[Number] = Field([])
    clusterings: list["Kmeans"] = Field([])

    @property
    def heads(self) -> int:
        """Return the number of clusterings."""
        return 1 + len(self.clusterings)


def read_kmeans(directory: Path) -> Kmeans:
    """Read kmeans.json of a cluster stage's directory. Raises StageError as `read_document` does."""
    return read_document(Kmeans, directory / FILE_NAME, "cluster")


def write_kmeans(directory: Path, kmeans: Kmeans) -> None:
    """Write kmeans.json into a cluster stage's directory."""
    write_document(directory / FILE_NAME, kmeans)
