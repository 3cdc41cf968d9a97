"""Pseudo-labels of a round, as later stages read them."""

from pathlib import Path

import numpy as np

from shards.errors import StageError
from shards.store.checked_read import read_stored_json, remedy_of
from shards.store.parquet import read_parquet


def read_k(labels: Path) -> int:
    """How many clusters a label directory's numbers come from, empty ones among them.

    Raises:
        StageError: scores.json is missing or damaged.
    """
    path = labels / "scores.json"
    try:
        return int(read_stored_json(path, "label")["k"])
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(f"{path} cannot be read ({error}). {remedy_of(path, 'label')}") from error


def read_labels(directory: Path, shard: str) -> tuple[np.ndarray, np.ndarray]:
    """Keys, object [clips], and clusters, int32 [clips], of one shard."""
    table = read_parquet(directory / f"{shard}.parquet", "label", ["key", "cluster"])
    return table["key"].to_numpy(), table["cluster"].to_numpy()
