"""Reading of a round's pseudo-labels."""

from pathlib import Path

import numpy as np

from shards.store.parquet import read_parquet
from xdc_core.documents.scores import read_scores


def read_k(labels: Path) -> int:
    """Return the number of clusters of a directory of pseudo-labels, including empty ones.

    Raises:
        StageError: scores.json is missing or damaged.
    """
    return read_scores(labels).k


def read_labels(directory: Path, shard: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the keys, object [clips], and clusters, int32 [clips], of one shard."""
    table = read_parquet(directory / f"{shard}.parquet", "label", ["key", "cluster"])
    return table["key"].to_numpy(), table["cluster"].to_numpy()
