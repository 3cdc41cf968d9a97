"""Counting rows and rejects in the files of a directory, shard by shard. Missing rows count as neither."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import StageError
from shards.store.checked_read import read_stored_json


def count_rows_and_rejects(
    directory: Path, stage: str, wanted: Mapping[str, int], rows_of: Callable[[str], int] = lambda key: 1
) -> tuple[int, int]:
    """Count the rows of `<shard>.parquet` and the entries of `<shard>.rejects.json` over all shards.

    `wanted`: shard -> number of rows it must have, including rejected ones. `rows_of`: number of rows per rejected
    key. Reads footers and rejects, no rows. Returns the number of rows and of rejects.

    Raises:
        StageError: rows and rejects of a shard do not add up, or its file is missing or cannot be read.
    """
    total_rows = total_rejects = 0
    for shard, size in wanted.items():
        path = directory / f"{shard}.parquet"
        try:
            rows = pq.read_metadata(path).num_rows
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise StageError(
                f"{path}: the shard's {size} rows are not there ({error}). They are not counted as rejected, and "
                "nothing is committed: run this again."
            ) from error
        rejects = sum(rows_of(key) for key in rejected_keys(directory, stage, shard))
        if rows + rejects != size:
            raise StageError(
                f"{path}: {rows} rows and {rejects} rejects for {size} rows in. Nothing is committed. Delete this file "
                "and run this again; if that does not help it is a defect of xdc: please report it."
            )
        total_rows, total_rejects = total_rows + rows, total_rejects + rejects
    return total_rows, total_rejects


def rejected_keys(directory: Path, stage: str, shard: str) -> list[str]:
    """Return the keys in `<shard>.rejects.json`; none without the file. Raises StageError as `read_stored` does."""
    path = directory / f"{shard}.rejects.json"
    return [entry["key"] for entry in read_stored_json(path, stage)] if path.exists() else []
