"""kmeans.json: the fit of one label source's clusters in one round."""

from pathlib import Path
from typing import Any

from pydantic import Field

from xdc_core.documents.document import Document, Number, read_document, write_document

FILE_NAME = "kmeans.json"


class Canonical(Document):
    """The axes that several modalities share, which are clustered with `cluster.joint: canonical`.

    components: whitened components per modality. correlations: of the axes that are kept, largest first. chance: the
    largest correlation of an axis after the clips of each modality were permuted. above_chance: number of axes above
    it; if there are fewer than two, other axes are kept, too.
    """

    components: list[int]
    correlations: list[Number]
    chance: Number
    above_chance: int


class Preprocessing(Document):
    """What was done to the features before clustering.

    pca_kept: principal components; pca_asked: `cluster.pca`, if `cluster.clips_per_component` allowed fewer. whitened:
    whether they have variance 1; missing in files of earlier versions.
    """

    pca_kept: int | None = None
    pca_asked: int | None = None
    whitened: bool = False
    canonical: Canonical | None = None


class Kmeans(Preprocessing):
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


def preprocessing_of(kmeans: Kmeans, whiten: bool) -> Preprocessing:
    """Return what was done to the features, from a kmeans.json.

    whiten: `cluster.whiten`, with which the clusters were made; one of an earlier version does not have it.
    """
    values = kmeans.content()
    if kmeans.pca_kept is not None:
        values.setdefault("whitened", whiten)
    return Preprocessing.model_validate({name: values[name] for name in Preprocessing.model_fields if name in values})


def write_kmeans(directory: Path, kmeans: Kmeans) -> None:
    """Write kmeans.json into a cluster stage's directory."""
    write_document(directory / FILE_NAME, kmeans)
