"""Parquet files with the columns key and feature, as other programs write them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shards.errors import ConfigError

KEY, FEATURE = "key", "feature"
TEXTS = ("source", "path", "split")  # `path` is another name of `source`.
NUMBERS = ("start_s", "duration_s")
LABEL = "label"  # The beginning of the names of columns with labels.
ROWS = 8192  # Rows that are read at once.


def feature_files(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder and the folders in it, sorted, without hidden ones; or the file itself.

    Raises:
        ConfigError: there are none.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise ConfigError(f"{folder} does not exist. Give a folder of Parquet files with the columns key and feature.")
    found = parquet_files(folder)
    if not found:
        raise ConfigError(
            f"{folder} has no *.parquet. Give a folder of Parquet files with the columns key and feature."
        )
    return found


def parquet_files(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder and the folders in it, sorted, without hidden ones."""
    return sorted(
        path
        for path in folder.rglob("*.parquet")
        if not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    )


def column_names(path: Path) -> list[str]:
    """Return the names of a file's columns; [] if it cannot be read as Parquet."""
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return []


def width_of(path: Path) -> int:
    """Return the width of the first features of a file; 0 if it has none.

    Raises:
        ConfigError: as `check_columns` and `read_feature_batches`.
    """
    check_columns(path)
    widths = (features.shape[1] for _, features in read_feature_batches(path) if len(features))
    return next(widths, 0)


def check_columns(path: Path) -> list[str]:
    """Return the columns of a file that describe clips.

    Raises:
        ConfigError: the file cannot be read, lacks a column, or a column has another type than is needed.
    """
    with _open(path) as file:
        schema = file.schema_arrow
    if lacking := {KEY, FEATURE}.difference(schema.names):
        raise ConfigError(
            f"{path} has no column {', '.join(sorted(lacking))}. Its columns are: {', '.join(schema.names) or 'none'}. "
            "Name the columns of keys and features so."
        )
    feature, key = schema.field(FEATURE).type, _plain(schema.field(KEY).type)
    if not _is_list(feature) or not pa.types.is_floating(feature.value_type):
        raise ConfigError(f"{path}: the column {FEATURE} is {feature}, but lists of floating-point numbers are needed.")
    if not _is_text(key):
        raise ConfigError(f"{path}: the column {KEY} is {key}, but text is needed.")
    described = [name for name in schema.names if name in (*TEXTS, *NUMBERS) or name.startswith(LABEL)]
    if twice := [name for name in (KEY, FEATURE, *described) if schema.names.count(name) > 1]:
        raise ConfigError(f"{path} has several columns with the name {twice[0]}. Rename or remove all but one.")
    for name in described:
        kind = _plain(schema.field(name).type)
        if not (_is_text(kind) or pa.types.is_primitive(kind) or pa.types.is_null(kind)):
            raise ConfigError(f"{path}: the column {name} is {kind}, but one value per clip is needed. Leave it out.")
        if name in NUMBERS and not _is_number(kind):
            raise ConfigError(f"{path}: the column {name} is {kind}, but numbers are needed (seconds).")
    return described


def read_described(path: Path, names: list[str]) -> pa.Table:
    """Return the keys of a file as text, with `names`: columns that `check_columns` has returned.

    Raises:
        ConfigError: the columns cannot be read, or cannot be represented as text or numbers.
    """
    name = KEY
    with _open(path) as file:
        try:
            table = file.read([KEY, *names])
            table.validate(full=True)  # Text that is not UTF-8 is found here.
            columns = {}
            for name in (KEY, *names):
                columns[name] = table[name].cast(pa.float64() if name in NUMBERS else pa.string())
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"{path}: the column {name} cannot be read: {error}. Write the file again.") from error
    return pa.table(columns)


def read_feature_batches(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the features of a file, some rows at a time: which rows have one, bool [rows], and these, float32
    [those, width]. A row without a list, or with an empty one, has none.

    Raises:
        ConfigError: the features of one file have several widths, or the file cannot be read.
    """
    with _open(path) as file:
        try:
            first = 0
            for batch in file.iter_batches(ROWS, columns=[FEATURE]):
                column = batch.column(0)
                numbers = pc.fill_null(pc.list_value_length(column), 0)
                there = pc.greater(numbers, 0)
                yield there.to_numpy(zero_copy_only=False), _numbers(path, first, column.filter(there))
                first += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"{path} cannot be read: {error}. Write the file again.") from error


def _numbers(path: Path, first: int, column: pa.Array) -> np.ndarray:
    """Return lists of numbers as float32 [rows, width]; a null in a list is NaN."""
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if not len(column):
        return np.empty((0, 0), np.float32)
    widths = np.unique(pc.list_value_length(column).to_numpy(zero_copy_only=False))
    if len(widths) > 1:
        raise ConfigError(
            f"{path}, rows {first} to {first + len(column) - 1}: the features have {widths[0]} to {widths[-1]} "
            "numbers. All must have the same number."
        )
    with np.errstate(over="ignore"):  # What is too large for float32 becomes infinite, and is rejected.
        return flat.astype(np.float32).reshape(len(column), int(widths[0]))


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path} cannot be read as Parquet: {error}. Write the file again.") from error


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
