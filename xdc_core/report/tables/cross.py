"""The clips of a corpus by their clusters in two directories of pseudo-labels."""

from pathlib import Path

import numpy as np

from shards.corpus.index import shard_names
from shards.store.files import part_among, part_path
from shards.store.manifest import read_manifest
from shards.store.parquet import read_parquet


def labelled_shards(corpus: Path, labels: Path) -> list[str]:
    """Return the shards of a corpus that a directory of pseudo-labels is of: all but those added since it was made."""
    manifest = read_manifest(labels)
    shards = shard_names(corpus)
    return shards if manifest is None else [shard for shard in shards if part_among(manifest.files, shard) is not None]


def cross_table(corpus: Path, rows: Path, columns: Path, shape: tuple[int, int]) -> np.ndarray:
    """Count the clips by their cluster in one directory of pseudo-labels and in another.

    Returns int64 `shape`, [clusters of `rows`, clusters of `columns`]. Clips that were added to the corpus after `rows`
    was made are left out.

    Raises:
        StageError: a file is missing or damaged.
    """
    counts = np.zeros(shape, np.int64)
    for shard in labelled_shards(corpus, rows):
        first, second = (
            read_parquet(part_path(directory, shard), "label", ["key", "cluster"]) for directory in (rows, columns)
        )
        both = first.join(second, "key", right_suffix="_other", join_type="inner")
        np.add.at(counts, (both["cluster"].to_numpy(), both["cluster_other"].to_numpy()), 1)
    return counts
