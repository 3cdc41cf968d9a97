"""Tables that people write: CSV and Parquet."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import ConfigError

TABLE_SUFFIXES = (".csv", ".parquet")


def read_table(path: Path) -> tuple[list[str], list[dict[str, object]]]:
    """The columns and the rows of a .csv (UTF-8, with a header) or .parquet file. A row that is too short has None.

    Raises:
        ConfigError: it is neither by its name, or cannot be read.
    """
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise ConfigError(f"{path} ends in {path.suffix!r}. Give a table that ends in .csv or .parquet.")
    try:
        if path.suffix.lower() == ".parquet":
            table = pq.read_table(path)
            return table.column_names, table.to_pylist()
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or []), list(reader)
    except OSError as error:  # Of Arrow's there is no strerror.
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except (csv.Error, pa.ArrowException, KeyError, ValueError, OverflowError) as error:  # A damaged one raises any.
        kind = "Parquet file" if path.suffix.lower() == ".parquet" else "CSV file in UTF-8"
        raise ConfigError(f"{path} is no {kind}: {error}") from error
