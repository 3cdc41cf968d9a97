"""Read tables written by users: CSV and Parquet."""

import csv
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import ConfigError

TABLE_SUFFIXES = (".csv", ".parquet")
# Texts for a missing value: of numpy and pandas, of Python, of pandas for times and for integers.
NO_VALUE = frozenset({"", "nan", "NaN", "NAN", "None", "NaT", "<NA>"})
_SEPARATORS = {";": "a semicolon", "\t": "a tab", "|": "a bar"}
_BLANK_INDEX = re.compile(r"__index_level_\d+__")  # pandas' name in Parquet for an index without a name.
_FILE_NAME = re.compile(r"\S.*\.\w{2,5}\s*")
BATCH = 8192  # Rows of a Parquet file that are read at once.
_QUOTES = "put a cell that holds a comma or a quote in double quotes, and double the quotes in it"


@dataclass(frozen=True)
class Row:
    """A row of a table. `where` names it in messages. `problem` says why it cannot be used; empty if it can."""

    where: str
    values: Mapping[str, object]
    problem: str = ""


@dataclass(frozen=True)
class Table:
    """The content of a table: all rows, including unusable ones. Of `stream_table` they can be read once.

    `index` has the names of columns with the index of a pandas frame. `types` are the columns' types in Parquet; empty
    for a CSV, in which all values are text.
    """

    columns: tuple[str, ...]
    rows: Iterable[Row]
    index: frozenset[str] = frozenset()
    types: Mapping[str, pa.DataType] = field(default_factory=dict)


def read_table(path: Path) -> Table:
    """Read a .csv (UTF-8, commas, with a header) or .parquet file. Missing cells of a short row are None.

    Raises:
        ConfigError: the file has another suffix, or cannot be read; two columns have one name; a quote of a CSV is not
            closed in its line (the text names the line); its separator is not a comma.
    """
    table = stream_table(path)
    return replace(table, rows=tuple(table.rows))


def stream_table(path: Path) -> Table:
    """Read a table as `read_table` does, but its rows only while they are iterated, which may raise its errors."""
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise ConfigError(f"{path} ends in {path.suffix!r}. Give a table that ends in .csv or .parquet.")
    with _explained(path):
        return _stream_parquet(path) if path.suffix.lower() == ".parquet" else _stream_csv(path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise errors of reading a table as ConfigError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except OSError as error:  # Arrow's errors have no strerror.
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except (csv.Error, pa.ArrowException, KeyError, ValueError, OverflowError) as error:  # By damaged files.
        kind = "Parquet file" if path.suffix.lower() == ".parquet" else "CSV file in UTF-8"
        raise ConfigError(f"{path} is not a {kind}: {error}") from error


def text_of(value: object) -> str:
    """Return a cell's text; "" if it is empty or a text for a missing value (NO_VALUE). Whole numbers have no `.0`."""
    if value is None:
        return ""
    if isinstance(value, (float, Decimal)) and math.isfinite(value) and value == int(value):
        return str(int(value))
    text = str(value)
    return "" if text.strip() in NO_VALUE else text


def _stream_parquet(path: Path) -> Table:
    # Not by `pq.read_table`: it treats folders such as a=b above the file as columns, and imports pandas.
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
    _check_names(path, schema.names)
    types = dict(zip(schema.names, schema.types, strict=True))
    return Table(tuple(schema.names), _parquet_rows(path), frozenset(_index_columns(schema)), types)


def _parquet_rows(path: Path) -> Iterator[Row]:
    before = 0
    with _explained(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH, use_threads=False):
            for number, values in enumerate(batch.to_pylist(), start=before + 1):
                yield Row(f"row {number}", values)
            before += batch.num_rows


def _index_columns(schema: pa.Schema) -> Iterator[str]:
    """Yield the columns that pandas' metadata name as the index, and those with pandas' index names."""
    yield from (name for name in schema.names if _BLANK_INDEX.fullmatch(name))
    try:
        noted = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))["index_columns"]
    except (ValueError, KeyError, TypeError):  # No metadata, or not those of pandas.
        return
    # An index that only counts the rows is not a column: its entry is a dictionary.
    yield from (name for name in noted if isinstance(name, str) and name in schema.names)


def _check_names(path: Path, columns: Sequence[str]) -> None:
    """Raise ConfigError if two columns have one name. Columns without a name are ignored."""
    for name, count in Counter(columns).items():
        if name and count > 1:
            places = [str(place) for place, column in enumerate(columns, start=1) if column == name]
            raise ConfigError(
                f"{path}: {count} columns are called {name!r} (numbers {', '.join(places)}). Rename or remove all but "
                "one."
            )


def _stream_csv(path: Path) -> Table:
    with path.open("rb") as file:
        start = file.read(200)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start:
        raise ConfigError(f"{path} is not a CSV file in UTF-8: it looks like UTF-16. Save it as UTF-8.")
    first, columns, problem = next(_filled_records(path), (1, [], ""))
    if problem:
        raise ConfigError(f"{path}: line {first}, the header: {problem}.")
    _check_separator(path, columns)
    _check_names(path, columns)
    return Table(tuple(columns), _csv_rows(path, columns))


def _csv_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    with _explained(path):
        for number, (line, cells, problem) in enumerate(_filled_records(path)):
            if number == 0:  # The header.
                continue
            if not problem and any(cell.strip() for cell in cells[len(columns) :]):
                problem = f"{len(cells)} fields, the header has {len(columns)}: {_QUOTES}"
            where = f"row {number}, line {line}" if problem else f"row {number}"
            padded = [*cells, *[None] * (len(columns) - len(cells))]
            yield Row(where, dict(zip(columns, padded, strict=False)), problem)


def _filled_records(path: Path) -> Iterator[tuple[int, list[str], str]]:
    """Yield the records of a CSV that are not empty lines."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        for line, cells, problem in _records(path, lines):
            if cells or problem:
                yield line, cells, problem


def _not_utf8(path: Path) -> ConfigError:
    data = path.read_bytes()
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + len(data[: error.start].splitlines()) - (not data[: error.start].endswith((b"\n", b"\r")))
        return ConfigError(
            f"{path} is not a CSV file in UTF-8: line {max(line, 1)} holds the byte 0x{data[error.start]:02x}. Save it "
            "as UTF-8 (it may be in latin-1 or another older encoding)."
        )
    return ConfigError(f"{path} has changed while it was read. Run this again.")


def _records(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, list[str], str]]:
    """Yield (number of its first line, its cells, problem) of every record. A line with stray quotes has a problem.

    Raises:
        ConfigError: a quote is not closed in its line, so that the following rows would be part of a cell. A cell may
            have line breaks if its row has as many cells as the header, and none of its lines looks like a row.
    """
    record: list[str] = []  # The lines of the present record.

    def kept() -> Iterator[str]:
        for line in lines:
            record.append(line)
            yield line

    reader = csv.reader(kept(), strict=True)
    columns = 0
    while True:
        before = reader.line_num
        record.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num > before + 1 or _leaves_open(record[0]):
                raise _open_quote(path, before + 1, record[0]) from error
            if '"' not in str(error):
                raise
            yield before + 1, next(csv.reader([record[0]])), f"text after a closing quote: {_QUOTES}"
            continue
        columns = columns or len(cells)
        if reader.line_num > before + 1 and (
            columns == 1 or len(cells) != columns or any(_holds_row(path.parent, cell) for cell in cells)
        ):
            raise _open_quote(path, before + 1, record[0])
        yield before + 1, cells, ""


def _holds_row(folder: Path, cell: str) -> bool:
    """Return whether a later line of a cell looks like a row, that is, has a file name between commas.

    A file may have line breaks in its own name; then it exists.
    """
    looks_so = any(_FILE_NAME.fullmatch(part) for line in cell.splitlines()[1:] for part in line.split(","))
    return looks_so and not os.path.exists(folder / cell)


def _leaves_open(line: str) -> bool:
    """Return whether a line ends inside a quoted cell, so that the next line belongs to it."""
    return len(list(csv.reader([line, "x"]))) == 1


def _open_quote(path: Path, line: int, text: str) -> ConfigError:
    return ConfigError(
        f"{path}: line {line}: a quote is opened and not closed in the line, so that rows after it would be lost: "
        f"{text.strip()[:80]} -- close the quote, or double it if it is part of the text. (A cell that has line breaks "
        "and looks like rows can be stored as Parquet.)"
    )


def _check_separator(path: Path, columns: Sequence[str]) -> None:
    if len(columns) != 1:
        return
    for separator, name in _SEPARATORS.items():
        if separator in columns[0]:
            raise ConfigError(
                f"{path}: the columns are separated by {name}: {columns[0]!r}. The separator must be a comma: save the "
                "table with commas (pandas: to_csv(..., sep=',', index=False))."
            )
