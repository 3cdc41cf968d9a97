"""Read a manifest: its columns are checked, and every row becomes a source or a reject."""

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from shards.errors import ConfigError
from shards.reject import Reject
from shards.settings import is_url
from shards.sources.source import Listing, Source
from shards.sources.source_path import SourcePaths
from shards.sources.split import split_name
from shards.sources.table import Table, text_of

_OBJECT = re.compile(r"s3://[^/]+(/(?!\.{0,2}(/|$))[^/]+)+")
COLUMNS = ("path", "start_s", "end_s", "split")


def list_rows(manifest: Path, table: Table, passed_over: Sequence[str] = ()) -> Listing:
    """Return the sources and rejects of a manifest. An invalid row is a reject with its number (the first is 1).

    Paths are stored as SourcePaths does. The columns in `passed_over` are ignored.

    Raises:
        ConfigError: no column `path`; a column that is neither known nor starts with `label`, or has an unusable type;
            or rows with the same file and span that differ in split or a label. The text names them.
    """
    sources: list[Source] = []
    rejects: list[Reject] = []
    seen: dict[bytes, tuple[Source, str]] = {}
    conflicts: list[str] = []
    for row in stream_rows(manifest, table, passed_over):
        if isinstance(row, Reject):
            rejects.append(row)
            continue
        first, where = seen.setdefault(row.span, (row.source, row.where))
        if where != row.where:
            conflicts += _conflict(first, where, row.source, row.where)
            reason = f"{row.where}: an earlier row has the same path, start_s and end_s"
            rejects.append(Reject(row.name, "list", "duplicate", reason))
        else:
            sources.append(row.source)
    if conflicts:
        more = f" (and {len(conflicts) - 3} more)" if len(conflicts) > 3 else ""
        raise ConfigError(
            f"{manifest}: {'; '.join(conflicts[:3])}{more}. Rows on the same file and span must agree: correct or "
            "remove one of each pair."
        )
    return Listing(manifest.parent, tuple(sources), tuple(rejects))


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of a manifest that names a source. `name`: its path as written."""

    where: str
    name: str
    source: Source
    paths: SourcePaths

    @property
    def span(self) -> bytes:
        """Return 16 bytes that stand for its file and span."""
        source = self.source
        span = f"{source.start_s or 0.0} {source.end_s} {self.paths.identity(source.path)}"
        return hashlib.blake2b(span.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def stream_rows(manifest: Path, table: Table, passed_over: Sequence[str] = ()) -> Iterator[SourceRow | Reject]:
    """Yield the rows of a manifest in order, duplicates included. Holds none of them.

    Raises:
        ConfigError: as `list_rows`, except for rows that contradict each other.
    """
    columns = [column for column in table.columns if column not in passed_over and not _is_index(column, table)]
    _check_columns(manifest, columns)
    _check_types(manifest, columns, table.types)
    paths = SourcePaths(manifest.parent)
    for row in table.rows:
        name = text_of(row.values["path"]).strip()
        try:
            if row.problem:
                raise ValueError(row.problem)
            source = _source_of({column: row.values[column] for column in columns}, name, paths)
        except ValueError as error:
            yield Reject(name or row.where, "list", "bad_row", f"{row.where}: {error}")
            continue
        yield SourceRow(row.where, name, source, paths)


def _is_index(column: str, table: Table) -> bool:
    """Return whether a column is a pandas frame's index and not a column of manifests."""
    return column in table.index and column not in COLUMNS and not column.startswith("label")


def _check_columns(manifest: Path, columns: Sequence[str]) -> None:
    for place, column in enumerate(columns, start=1):
        if (not column.strip() and place == 1) or column.startswith("Unnamed: "):
            raise ConfigError(
                f"{manifest}: column {place} ({column!r}) is the index that pandas writes beside a table. Write the "
                "table without it: to_csv(..., index=False). Or remove the column."
            )
        if not column.strip():
            raise ConfigError(f"{manifest}: column {place} has no name. Name it, or remove it.")
    meant = {column: near for column in columns if (near := _nearest(column)) is not None}
    if "path" not in columns:
        hint = next((f" Did you mean {column!r}? Rename it path." for column in meant if meant[column] == "path"), "")
        raise ConfigError(
            f"{manifest}: no column 'path'; its columns are {', '.join(columns) or '(none)'}."
            f"{hint or ' The first line names the columns; that of the files is called path.'}"
        )
    for column in columns:
        if column not in COLUMNS and not column.startswith("label"):
            hint = (
                f" Did you mean {meant[column]!r}?"
                if column in meant
                else " Rename it label_... to keep it as a label."
            )
            raise ConfigError(f"{manifest}: unknown column {column!r}.{hint}")


def _nearest(column: str) -> str | None:
    """Return the known column with the most similar name, if there is one."""
    if column in COLUMNS or column.startswith("label"):
        return None
    known = (*COLUMNS, "label")
    if (plain := column.strip().casefold()) in known:
        return plain
    return next(iter(difflib.get_close_matches(column, known, n=1)), None)


def _check_types(manifest: Path, columns: Sequence[str], types: Mapping[str, pa.DataType]) -> None:
    """Raise ConfigError for a Parquet column that cannot be converted to a path, seconds or text."""
    for column in columns:
        if column not in types:
            continue
        kind = types[column].value_type if pa.types.is_dictionary(types[column]) else types[column]
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        if column == "path":
            good, wanted = text, "a path is text (string)"
        elif column in ("start_s", "end_s"):
            good, wanted = text or number, "seconds are numbers"
        else:
            good, wanted = not _is_binary(kind), "a split or label is text or a number"
        if not good and not pa.types.is_null(kind):
            raise ConfigError(f"{manifest}: the column {column!r} is of type {types[column]}: {wanted}. Convert it.")


def _is_binary(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _conflict(first: Source, earlier: str, source: Source, later: str) -> list[str]:
    """Return how two rows with the same span differ, in words; empty if they agree."""
    differing = [
        f"{name} is {first.labels.get(name, '')!r} and {source.labels.get(name, '')!r}"
        for name in sorted({*first.labels, *source.labels})
        if first.labels.get(name) != source.labels.get(name)
    ]
    if split_name(first.split) != split_name(source.split):
        differing.append(f"split is {first.split!r} and {source.split!r}")
    return [f"{earlier} and {later} are both {first.path}, but {', '.join(differing)}"] if differing else []


def _source_of(row: Mapping[str, object], name: str, paths: SourcePaths) -> Source:
    """Return a row as a source. Raises ValueError with the reason if the row cannot be used."""
    if not name:
        raise ValueError("no path")
    if ("://" in name and not is_url(name)) or name.startswith("pipe:"):
        raise ValueError("only local files and s3:// are read, no other addresses and no pipes")
    if is_url(name) and not _OBJECT.fullmatch(name):
        raise ValueError("an object's URL is s3://BUCKET/NAME, without empty parts, . and ..")
    if "\0" in name:
        raise ValueError("the path holds a zero byte")
    start_s, end_s = (_seconds(row, column) for column in ("start_s", "end_s"))
    if end_s is not None and end_s <= (start_s or 0.0):
        raise ValueError(f"end_s ({end_s}) is not after start_s ({start_s or 0.0})")
    labels = {column: text for column in row if column.startswith("label") and (text := text_of(row[column]))}
    return Source(paths.stored(name), start_s, end_s, text_of(row.get("split")), labels)


def _seconds(row: Mapping[str, object], column: str) -> float | None:
    value = row.get(column)
    if not text_of(value):
        return None
    try:
        seconds = float(str(value))
    except ValueError:
        raise ValueError(f"{column} is {value!r}, not a number of seconds") from None
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{column} is {value!r}; it must be zero or more")
    return seconds
