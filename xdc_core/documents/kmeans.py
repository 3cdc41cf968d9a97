"""kmeans.json: how the clusters of one label source in one round were fitted."""

from pathlib import Path
from typing import Any

from pydantic import Field

from xdc_core.documents.document import Document, Number, read_document, write_document

FILE_NAME = "kmeans.json"


class Kmeans(Document):
    """How a label source was clustered.

    algorithm: its name; settings: its own. k: clusters. clips: clips to learn from; sample: how many of them the
    clustering was fitted on. components: width of what was clustered. objective: a number per iteration, of k-means the
    sum of squared distances. splits: empty clusters that were refilled on the way. sizes: points of the sample per
    cluster; empty: clusters without any. on: the device.
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


def read_kmeans(directory: Path) -> Kmeans:
    """Read kmeans.json of a cluster stage's directory. Raises StageError as `read_document` does."""
    return read_document(Kmeans, directory / FILE_NAME, "cluster")


def write_kmeans(directory: Path, kmeans: Kmeans) -> None:
    """Write kmeans.json into a cluster stage's directory."""
    write_document(directory / FILE_NAME, kmeans)
