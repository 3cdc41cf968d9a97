"""Rejects as columns, for millions of them."""

from collections.abc import Iterable

import pyarrow as pa

from shards.reject import Reject
from shards.sources.columns import batches

REJECTS_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("key", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("step", pa.string()),
        ("kind", pa.string()),
        ("reason", pa.string()),
    ]
)
_REPEATED = ("key", "step", "kind", "reason")
_COLUMNS = pa.schema(
    [
        (field.name, pa.dictionary(pa.int32(), pa.string()) if field.name in _REPEATED else field.type)
        for field in REJECTS_SCHEMA
    ]
).set(0, pa.field("source", pa.large_string()))


def reject_columns(rejects: Iterable[Reject]) -> pa.Table:
    """Return rejects as columns, some 80 bytes each: those of REJECTS_SCHEMA, dictionary-encoded except the source.

    They may come from an iterator, and are not held.
    """
    tables = [_COLUMNS.empty_table()]
    for batch in batches(rejects):
        columns = [pa.array([getattr(reject, field.name) for reject in batch], field.type) for field in _COLUMNS]
        tables.append(pa.Table.from_arrays(columns, schema=_COLUMNS))
    return pa.concat_tables(tables).unify_dictionaries()
