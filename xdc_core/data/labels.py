"""Reading of a round's pseudo-labels."""

from pathlib import Path

import numpy as np

from shards.store.files import part_path
from shards.store.parquet import read_parquet
from xdc_core.documents.scores import read_scores


def label_column(name: str, head: int) -> str:
    """Return the column `cluster` or `distance` of the clustering `head` of a label source; the first one is 0."""
    return f"{name}_{head}" if head else name


def head_name(source: str, head: int) -> str:
    """Return the name of an encoder's head for the clustering `head` of a label source. No source has a hyphen."""
    return f"{source}-{head}" if head else source


def read_classes(labels: Path) -> list[int]:
    """Return, for each clustering in a directory of pseudo-labels, the number of clusters, including empty ones.

    Raises:
        StageError: scores.json is missing or damaged.
    """
    scores = read_scores(labels)
    return [scores.k, *(further.k for further in scores.clusterings)]


def read_labels(directory: Path, shard: str, head: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Read the keys, object [clips], and clusters of one clustering, int32 [clips], of one shard."""
    column = label_column("cluster", head)
    table = read_parquet(part_path(directory, shard), "label", ["key", column])
    return table["key"].to_numpy(), table[column].to_numpy()
