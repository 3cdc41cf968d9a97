"""Features on disk: one Parquet file per shard, one row per clip, in the order of the shard's index."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.corpus.index import shard_names
from shards.errors import StageError
from shards.store.parquet import count_rows, read_column, read_parquet, write_parquet


def write_features(path: Path, keys: list[str], features: np.ndarray, **columns: pa.Array) -> None:
    """Write keys, other columns, and features, float32 [clips, width], as a column of fixed-size lists."""
    width = features.shape[1]
    flat = pa.array(np.ascontiguousarray(features, np.float32).reshape(-1), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(flat, width)
    write_parquet(path, pa.table({"key": pa.array(keys, pa.string()), **columns, "feature": column}))


def read_features(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read keys, object [clips], and features, float32 [clips, width].

    Raises:
        StageError: the file is missing or damaged.
    """
    table = read_parquet(path, "extract", ["key", "feature"])
    column = table["feature"].combine_chunks()
    width = column.type.list_size
    features = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return table["key"].to_numpy(), features


def feature_rows(directory: Path) -> int:
    """Return the number of rows of all shards in a partial directory, from the files' footers."""
    return sum(pq.read_metadata(path).num_rows for path in directory.glob("[0-9]*.parquet"))


def source_part(features: Sequence[Path], shard: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Read the features of the clips of a shard that have a feature in every one of these directories.

    features: one directory of features per modality that a label source is clustered from. Returns keys, object
    [clips], and float32 [clips, width] per modality, all in the order of the index.

    Raises:
        StageError: a file is missing or damaged, or the features of the modalities are in different orders.
    """
    parts = [read_features(directory / f"{shard}.parquet") for directory in features]
    keys, _ = parts[0]
    if all(len(other) == len(keys) and (other == keys).all() for other, _ in parts[1:]):
        return keys, [features for _, features in parts]
    shared = set.intersection(*(set(part_keys) for part_keys, _ in parts))
    masks = [np.fromiter((key in shared for key in part_keys), bool, len(part_keys)) for part_keys, _ in parts]
    kept = [(part_keys[mask], features[mask]) for (part_keys, features), mask in zip(parts, masks, strict=True)]
    if any((part_keys != kept[0][0]).any() for part_keys, _ in kept):
        raise StageError(f"shard {shard}: the features of the modalities are in different orders. Run extract --force.")
    return kept[0][0], [features for _, features in kept]


def source_keys(features: Sequence[Path], shard: str) -> list[str]:
    """Return the keys of a shard's clips that have a feature in each of these directories, in the order of the index.

    Reads only the columns of keys.

    Raises:
        StageError: a file is missing or damaged.
    """
    first, *others = [
        read_column(directory / f"{shard}.parquet", "extract", "key").to_pylist() for directory in features
    ]
    shared = set(first).intersection(*others)
    return [key for key in first if key in shared]


def source_rows(features: Sequence[Path], shard: str) -> int:
    """Return the number of a shard's clips that have a feature in each of these directories; reads only keys."""
    if len(features) == 1:
        return count_rows(features[0] / f"{shard}.parquet", "extract")
    return len(source_keys(features, shard))


def source_parts(corpus: Path, features: Sequence[Path]) -> Iterator[tuple[str, np.ndarray, list[np.ndarray]]]:
    """Yield the name and the `source_part` of each shard: memory does not grow with the corpus."""
    for shard in shard_names(corpus):
        yield shard, *source_part(features, shard)
