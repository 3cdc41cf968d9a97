"""The rows of a corpus's index that views need, by number."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from shards.corpus.index import GROUPS, in_splits
from shards.errors import ConfigError, StageError
from shards.indexing.columns import columns_of, hold_columns, open_columns
from shards.sources.split import check_learn_splits
from xdc_core.config.selection import SelectSettings
from xdc_core.data.selection import selected
from xdc_core.modalities.modality import Modality

# The columns of the index that views can have: numbers.
NUMBERS = {"start_s", "duration_s", "fps", "frames", "width", "height", "sample_rate", "samples"}


class Rows(Protocol):
    """Maps a row number to its shard's name and its index row."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> tuple[str, Mapping[str, Any]]: ...


def row_columns(modality: Modality) -> list[str]:
    """Return the columns of the index for views of a modality: the key, numbers, and the clip's place in the tar.

    Raises:
        ConfigError: the modality asks for a column that is not a number.
    """
    if wrong := sorted(set(modality.columns) - NUMBERS):
        raise ConfigError(
            f"the modality {modality.name} needs the columns {', '.join(wrong)} of the index, but views get its "
            f"numbers only: {', '.join(sorted(NUMBERS))}. Correct the modality's `columns`."
        )
    member = modality.member
    return [*modality.columns, f"{member}_offset", f"{member}_size", "key", f"{member}_sha256"]


class TableRows:
    """The rows of a table with the columns of an index, as views of one modality need them.

    keys: of all rows, in order.
    """

    def __init__(self, table: pa.Table, modality: Modality) -> None:
        self.keys: pa.ChunkedArray = table["key"]
        self._columns = {name: table[name] for name in row_columns(modality)}
        by_groups = modality.by_groups and {*GROUPS.names} <= {*table.column_names}
        self._groups = {name: table[name] for name in GROUPS.names} if by_groups else {}

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        row = {name: column[number].as_py() for name, column in self._columns.items()}
        return row | {name: _value(column[number]) for name, column in self._groups.items()}


def _value(scalar: pa.Scalar) -> Any:
    """Return the value of a scalar of GROUPS; numbers as an array, which is quicker than a list."""
    numbers = pa.types.is_list(scalar.type) and pa.types.is_integer(scalar.type.value_type) and scalar.is_valid
    return scalar.values.to_numpy() if numbers else scalar.as_py()


class ClipRows:
    """The index rows of a whole corpus, mapped from the disk: this process and those that it starts hold none.

    directory: the columns, from `columns_of`. keys, splits: of all rows, mapped.

    Raises:
        StageError: the columns cannot be read, or the modality needs one that the corpus does not have.
    """

    def __init__(self, directory: Path, modality: Modality) -> None:
        self._directory, self._modality = directory, modality
        hold_columns(directory, self)  # Processes that are started later open them, too.
        self._table, shards = open_columns(directory)
        if lacking := sorted({*row_columns(modality), "split"}.difference(self._table.column_names)):
            raise StageError(f"{directory}: the corpus's index has no column {', '.join(lacking)}. Build it again.")
        self._rows = TableRows(self._table, modality)
        self.keys: pa.ChunkedArray = self._table["key"]
        self.splits: pa.ChunkedArray = self._table["split"]
        self._names, self._ends = shards["name"], shards["end"].combine_chunks().to_numpy()

    def __reduce__(self) -> tuple[type["ClipRows"], tuple[Path, Modality]]:
        """Return how another process opens the same rows."""
        return ClipRows, (self._directory, self._modality)

    def column(self, name: str) -> list[Any]:
        """Return the values of a column of the index in the order of the rows."""
        values: list[Any] = self._table[name].to_pylist()
        return values

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> tuple[str, Mapping[str, Any]]:
        return self._names[bisect_right(self._ends, number)].as_py(), self._rows[number]

    def by_shard(self) -> Iterator[tuple[str, slice]]:
        """Yield the name and the row numbers of each shard."""
        bounds = pairwise((0, *self._ends.tolist()))
        for name, (first, last) in zip(self._names.to_pylist(), bounds, strict=True):
            yield name, slice(first, last)

    def in_splits(self, splits: list[str] | None) -> np.ndarray:
        """Return which rows are in one of the splits, bool [rows]; None means all.

        Raises:
            ConfigError: no row has one of the splits.
        """
        if splits is not None:
            check_learn_splits(splits, self.splits.unique().to_pylist(), "the corpus")
        return in_splits(self.splits, splits)

    def selected(self, select: SelectSettings, corpus: Path) -> np.ndarray:
        """Return which rows all thresholds keep, bool [rows]. `corpus`: for messages. Raises ConfigError as `kept`."""
        return selected(self._table, select, corpus)


def corpus_rows(corpus: Path, modality: Modality, elsewhere: Path) -> ClipRows:
    """Open the rows of a committed corpus. The first call writes its columns, as `columns_of` does."""
    return ClipRows(columns_of(corpus, elsewhere), modality)
