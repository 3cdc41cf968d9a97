"""What a clustering's scores are computed from, counted shard by shard and added up."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xdc_core.clustering.agreement import Contingency


@dataclass
class ClusterCounts:
    """Counts of the clips of some shards.

    sizes: clips per cluster, int64 [k]. labels: clips per pair of cluster and label, by label column. previous: the
    same for the clusters of the round before; nothing in the first round. elsewhere: clips that have another centroid
    that is nearer.
    """

    sizes: np.ndarray
    labels: dict[str, Contingency]
    previous: Contingency = field(default_factory=Contingency)
    elsewhere: int = 0

    def notes(self) -> dict[str, Any]:
        """Return the counts as JSON values. Their size grows with the number of clips, not with k."""
        occupied = np.flatnonzero(self.sizes)
        return {
            "sizes": [occupied.tolist(), self.sizes[occupied].tolist()],
            "labels": {name: counts.columns() for name, counts in self.labels.items()},
            "previous": self.previous.columns(),
            "elsewhere": self.elsewhere,
        }

    def add(self, notes: dict[str, Any]) -> None:
        """Add the counts of other clips, as `notes` returned them for the same k and label columns."""
        clusters, clips = np.array(notes["sizes"], np.int64)
        self.sizes[clusters] += clips
        for name, counts in self.labels.items():
            counts.add_columns(notes["labels"][name])
        self.previous.add_columns(notes["previous"])
        self.elsewhere += notes["elsewhere"]


def no_counts(k: int, names: Iterable[str]) -> ClusterCounts:
    """Return counts of no clips. names: label columns."""
    return ClusterCounts(np.zeros(k, np.int64), {name: Contingency() for name in names})
