"""Parquet tables: written atomically, and checked when they are read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import StageError
from shards.store.checked_read import read_stored, remedy_of
from shards.store.files import new_file


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table atomically: the file is complete or absent."""
    with new_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_parquet(path: Path, stage: str, columns: list[str] | None = None) -> pa.Table:
    """Read a table that `stage` wrote.

    Raises:
        StageError: the file is missing or damaged; the text has the command that rebuilds it.
    """
    try:
        # Not by `read_table`: that imports pandas, where it is installed.
        table = pq.ParquetFile(pa.BufferReader(read_stored(path, stage))).read(columns)
        table.validate(full=True)  # Also finds text that is not UTF-8, which would fail later.
        if absent := set(columns or ()).difference(table.column_names):
            raise pa.ArrowInvalid(f"it has no column {', '.join(sorted(absent))}")
        return table
    except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:  # An error of the machine, not of the file.
            raise
        raise StageError(f"{path} cannot be read ({error}). {remedy_of(path, stage)}") from error


def read_column(path: Path, stage: str, name: str) -> pa.ChunkedArray:
    """Read one column of a table that `stage` wrote, and no byte of the others. The file's sha256 is not checked.

    Raises:
        StageError: the file is missing, has no such column, or the column cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            column = file.read([name])[name]
        column.validate(full=True)
        return column
    except (FileNotFoundError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        raise StageError(f"{path} cannot be read ({error}). {remedy_of(path, stage)}") from error


def count_rows(path: Path, stage: str) -> int:
    """Return the number of rows of a table that `stage` wrote, from the file's footer: the rows are not checked.

    Raises:
        StageError: the file is missing, or has no footer that can be read.
    """
    try:
        return int(pq.read_metadata(path).num_rows)
    except (FileNotFoundError, pa.ArrowException) as error:
        raise StageError(f"{path} cannot be read ({error}). {remedy_of(path, stage)}") from error


def read_schema(path: Path, stage: str) -> pa.Schema:
    """Return the columns' names and types of a table that `stage` wrote. Raises StageError as `count_rows` does."""
    try:
        return pq.read_schema(path)
    except (FileNotFoundError, pa.ArrowException) as error:
        raise StageError(f"{path} cannot be read ({error}). {remedy_of(path, stage)}") from error
