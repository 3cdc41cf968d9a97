"""Sources of a corpus as columns: some 80 bytes a source instead of a kilobyte."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar, overload

import pyarrow as pa

from shards.sources.source import Source

T = TypeVar("T")
BATCH = 8192  # Rows that are in memory as objects at once.
_TEXT = pa.dictionary(pa.int32(), pa.string())
_OWN = [("path", pa.large_string()), ("start_s", pa.float64()), ("end_s", pa.float64()), ("split", _TEXT)]


@dataclass(frozen=True, eq=False)
class SourceColumns(Sequence[Source]):
    """A sequence of sources. `table`: path, start_s, end_s, split, and a column for each label (null: absent)."""

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[Source]:
        for batch in self.table.to_batches(BATCH):
            yield from self._sources(batch)

    @overload
    def __getitem__(self, place: int) -> Source: ...
    @overload
    def __getitem__(self, place: slice) -> list[Source]: ...
    def __getitem__(self, place: int | slice) -> Source | list[Source]:
        """Return one source, or several as a list."""
        numbers = range(len(self))[place]
        if isinstance(numbers, range):
            return list(self._sources(self.table.take(pa.array(numbers, pa.int64()))))
        return next(self._sources(self.table.slice(numbers, 1)))

    def _sources(self, rows: pa.Table | pa.RecordBatch) -> Iterator[Source]:
        names = self.label_names
        for row in rows.to_pylist():
            labels = {name: row[name] for name in names if row[name] is not None}
            yield Source(row["path"], row["start_s"], row["end_s"], row["split"], labels)

    @property
    def label_names(self) -> list[str]:
        """Return the names of the label columns, sorted; `label` itself comes first."""
        return sorted(self.table.column_names[len(_OWN) :])


def batches(rows: Iterable[T]) -> Iterator[list[T]]:
    """Yield rows in lists of BATCH."""
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def source_columns(sources: Iterable[Source]) -> SourceColumns:
    """Return sources as columns. They may come from an iterator, and are not held."""
    if isinstance(sources, SourceColumns):
        return sources
    tables = [pa.table({name: pa.array([], kind) for name, kind in _OWN})]
    for batch in batches(sources):
        columns = {name: pa.array([getattr(source, name) for source in batch], kind) for name, kind in _OWN}
        for name in sorted({name for source in batch for name in source.labels}):
            columns[name] = pa.array([source.labels.get(name) for source in batch], _TEXT)
        tables.append(pa.table(columns))
    whole = pa.concat_tables(tables, promote_options="default")
    return SourceColumns(whole.unify_dictionaries().combine_chunks())
