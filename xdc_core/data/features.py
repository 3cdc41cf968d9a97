"""Features on disk: one Parquet file per shard in `data/`, one row per clip, in the order of the shard's index."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from shards.errors import StageError
from shards.store.files import part_path
from shards.store.parquet import count_rows, read_column, read_parquet, read_schema, write_parquet


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


def feature_width(path: Path) -> int:
    """Return the width of a file's features, from its footer.

    Raises:
        StageError: the file is missing, or has no footer that can be read.
    """
    return int(read_schema(path, "extract").field("feature").type.list_size)


def source_part(features: Sequence[Path], shard: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Read the features of the clips of a shard that have a feature in every one of these directories.

    features: one directory of features per modality that a label source is clustered from. Returns keys, object
    [clips], and float32 [clips, width] per modality, all in the order of the index.

    Raises:
        StageError: a file is missing or damaged, or the features of the modalities are in different orders.
    """
    parts = [read_features(part_path(directory, shard)) for directory in features]
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
    first, *others = [read_column(part_path(directory, shard), "extract", "key").to_pylist() for directory in features]
    shared = set(first).intersection(*others)
    return [key for key in first if key in shared]


def source_rows(features: Sequence[Path], shard: str) -> int:
    """Return the number of a shard's clips that have a feature in each of these directories; reads only keys."""
    if len(features) == 1:
        return count_rows(part_path(features[0], shard), "extract")
    return len(source_keys(features, shard))
