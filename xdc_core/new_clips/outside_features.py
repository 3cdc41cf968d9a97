"""Features that somebody else has written: folders of Parquet files with columns key and feature."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shards.errors import ConfigError

COLUMNS = ("key", "feature")


def feature_files(path: Path) -> list[Path]:
    """Return the files with features in a folder, or in its folder `data`; of one file that file. [] without any."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" and _has_features(path) else []
    found = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    return [file for file in found if _has_features(file)]


def _has_features(path: Path) -> bool:
    try:
        return set(COLUMNS) <= {*pq.read_schema(path).names}
    except pa.ArrowException:
        return False


def read_outside_features(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read keys, object [clips], and features, float32 [clips, width], from a file that somebody else has written.

    key: text, each once. feature: lists of numbers, all of the same length.

    Raises:
        ConfigError: the file cannot be read, or a column is not like that.
    """
    try:
        table = pq.ParquetFile(path).read([*COLUMNS])
        table.validate(full=True)
        keys, column = table["key"].combine_chunks().cast(pa.string()), table["feature"].combine_chunks()
    except (pa.ArrowException, KeyError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as features ({error}). Write it again.") from error
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise ConfigError(f"{path}: the column feature is {kind}, but lists of numbers are needed.")
    if not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise ConfigError(f"{path}: the column feature has lists of {kind.value_type}, but numbers are needed.")
    if keys.null_count or column.null_count:
        raise ConfigError(f"{path}: some rows have no key or no feature. Remove these rows.")
    if len(pc.unique(keys)) < len(keys):
        raise ConfigError(f"{path}: some keys occur twice. Every clip needs one row.")
    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(widths) != 1 or not widths[0]:
        raise ConfigError(f"{path}: the features are {sorted(widths)} wide; all need the same width.")
    features = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(keys), widths[0])
    return keys.to_numpy(zero_copy_only=False), features
