"""What a clustering algorithm is: how it fits clusters to points, and how it assigns points to clusters."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from shards.errors import StageError
from shards.section import Section

if TYPE_CHECKING:
    import numpy as np

# What an algorithm keeps of a fit: arrays by name, stored as <name>.npy.
Model: TypeAlias = "Mapping[str, np.ndarray]"


@dataclass(frozen=True)
class Clusterer:
    """One clustering algorithm. Light to import: its functions load with `module`, when they are first called.

    name: that of `cluster.algorithm`. settings: the class of its own settings; every field has a default.
    module: the module with two functions:
        fit(points: float32 [n, d], k: int, settings, seed: int, threads: int, gpus: int) -> (model, details)
        assign(model, points: float32 [n, d]) -> (distance [n], cluster [n])
    fit must give the same model for the same arguments, whatever ran before. details: JSON values for kmeans.json;
    `objective` is a list with a number per iteration, `on` says where it ran. distance: of every point to its cluster,
    by which a report chooses examples; cluster: its number, from 0 to k - 1.
    arrays: the names of the model's arrays.
    version: to be raised when the same settings give other clusters; it is part of the fingerprint.
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
        """Fit k clusters to points, float32 [n, d], n >= k. Returns the model, and details for kmeans.json.

        Details always have `objective`, `sizes` (points per cluster), `empty` (clusters without points), `splits` and
        `on`.

        Raises:
            StageError: the model lacks an array, or has numbers that are not finite.
            Whatever the algorithm raises.
        """
        import numpy as np

        model, details = import_module(self.module).fit(points, k, settings, seed, threads, gpus)
        if set(model) != set(self.arrays):
            raise StageError(
                f"{self} gives the arrays {', '.join(model)}, but it declares {', '.join(self.arrays)}. "
                "Correct the one or the other."
            )
        for name, array in model.items():
            if array.dtype == object or not np.isfinite(array).all():
                raise StageError(f"{self}: the array {name} of its model has values that are no finite numbers.")
        if "sizes" not in details:
            sizes = np.bincount(self.assign(model, points, k)[1], minlength=k)
            details = {**details, "sizes": sizes.tolist(), "empty": int((sizes == 0).sum())}
        return model, {"objective": [], "splits": 0, "on": f"CPU, {threads} threads"} | details

    def assign(self, model: Model, points: "np.ndarray", k: int) -> tuple["np.ndarray", "np.ndarray"]:
        """Return of every point, float32 [n, d], the distance to its cluster, float32 [n], and its number, int64 [n].

        Raises:
            StageError: what the algorithm gives is not that.
        """
        import numpy as np

        distance, cluster = map(np.asarray, import_module(self.module).assign(model, points))
        if distance.shape != (len(points),) or cluster.shape != (len(points),):
            raise StageError(
                f"{self} assigns {len(points)} points with distances {distance.shape} and clusters {cluster.shape}; "
                f"both must be [{len(points)}]."
            )
        if cluster.dtype.kind not in "iu" or (len(cluster) and not 0 <= cluster.min() <= cluster.max() < k):
            raise StageError(f"{self} assigns points to clusters that are no integers from 0 to {k - 1}.")
        if not np.isfinite(distance).all():
            raise StageError(f"{self}: some of the distances that it assigns are not finite.")
        return distance.astype(np.float32, copy=False), cluster.astype(np.int64, copy=False)

    def __str__(self) -> str:
        return f"the clustering algorithm {self.name!r} ({self.module})"
