"""The interface of clustering algorithms: fit clusters to points, and assign points to clusters."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from shards.errors import StageError
from shards.section import Section

if TYPE_CHECKING:
    import numpy as np

# The result of a fit: arrays by name, stored as <name>.npy.
Model: TypeAlias = "Mapping[str, np.ndarray]"


# What kmeans.json says of every clustering: an algorithm's details have other names.
RECORDED = {
    *("algorithm", "settings", "k", "clips", "sample", "components", "seed", "variance_kept"),
    *("iterations_over_all", "sample_objective", "clusterings", "pca_kept", "pca_asked", "whitened", "canonical"),
}


@dataclass(frozen=True)
class Clusterer:
    """One clustering algorithm. It is cheap to import: `module` is imported when one of its functions is first called.

    name: that of `cluster.algorithm`. settings: the class of its own settings; every field has a default.
    module: the module with these two functions:
        fit(points: float32 [n, d], k: int, settings, seed: int, threads: int, gpus: int) -> (model, details)
        assign(model, points: float32 [n, d]) -> (distance [n], cluster [n])
    fit must return the same model for the same arguments, independent of earlier calls. details: JSON values for
    kmeans.json; `objective` is a list with a number per iteration, `on` says where it ran. distance: of each point to
    its cluster; reports choose examples by it. cluster: the cluster's number, from 0 to k - 1.
    arrays: the names of the model's arrays.
    version: to be raised if the same settings give other clusters; it is part of the fingerprint.
    uses_gpus: whether `fit` can run on the GPUs that faiss sees; otherwise `gpus` is always 0.
    """

    name: str
    settings: type[Section]
    module: str
    arrays: tuple[str, ...] = ("centroids",)
    version: int = 1
    uses_gpus: bool = False

    def fit(
        self, points: "np.ndarray", k: int, settings: Section, seed: int, threads: int, gpus: int = 0
    ) -> tuple[Model, dict[str, Any]]:
        """Fit k clusters to points, float32 [n, d], n >= k. Return the model, and details for kmeans.json.

        Details always have `objective`, `sizes` (points per cluster), `empty` (clusters without points), `splits` and
        `on`.

        Raises:
            StageError: the model lacks an array, or has values that are not finite numbers; or a detail has the name of
                something that xdc records.
            Exception: what the algorithm raises.
        """
        import numpy as np

        model, details = import_module(self.module).fit(points, k, settings, seed, threads, gpus)
        if set(model) != set(self.arrays):
            raise StageError(
                f"{self} gives the arrays {', '.join(model)}, but it declares {', '.join(self.arrays)}. "
                "Correct one of them."
            )
        model = {name: np.asarray(array) for name, array in model.items()}
        for name, array in model.items():
            if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
                raise StageError(f"{self}: the array {name} of its model has values that are not finite numbers.")
        if recorded := sorted(set(details) & RECORDED):
            raise StageError(f"{self} gives the details {', '.join(recorded)}, which xdc records itself. Rename them.")
        if "sizes" not in details:
            sizes = np.bincount(self.assign(model, points, k)[1], minlength=k)
            details = {**details, "sizes": sizes.tolist(), "empty": int((sizes == 0).sum())}
        return model, {"objective": [], "splits": 0, "on": f"CPU, {threads} threads"} | details

    def assign(self, model: Model, points: "np.ndarray", k: int) -> tuple["np.ndarray", "np.ndarray"]:
        """Return the distance, float32 [n], of each point, float32 [n, d], to its cluster, and its number, int64 [n].

        Raises:
            StageError: the algorithm's result has another shape or type.
        """
        import numpy as np

        distance, cluster = map(np.asarray, import_module(self.module).assign(model, points))
        if distance.shape != (len(points),) or cluster.shape != (len(points),):
            raise StageError(
                f"{self} assigns {len(points)} points with distances {distance.shape} and clusters {cluster.shape}; "
                f"both must be [{len(points)}]."
            )
        if cluster.dtype.kind not in "iu" or (len(cluster) and not 0 <= cluster.min() <= cluster.max() < k):
            raise StageError(f"{self} assigns points to clusters that are not integers from 0 to {k - 1}.")
        if not np.isfinite(distance).all():
            raise StageError(f"{self}: some of the distances that it assigns are not finite.")
        return distance.astype(np.float32, copy=False), cluster.astype(np.int64, copy=False)

    def __str__(self) -> str:
        return f"the clustering algorithm {self.name!r} ({self.module})"
