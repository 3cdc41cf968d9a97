"""What people and machines write is read, or refused with an error that is ours: manifests, and the index."""

import csv
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.corpus.index import index_schema, read_index, read_whole_index
from shards.corpus.listing import list_corpus
from shards.errors import ConfigError, StageError
from shards.store.parquet import write_parquet

EXAMPLES = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
COLUMNS = st.one_of(st.sampled_from(["path", "start_s", "end_s", "split", "label", "label_x"]), st.text(max_size=5))
CELLS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.text(max_size=12),
    st.sampled_from(
        ["a.mp4", "/etc/passwd", "../a.mp4", "http://x/y", "pipe:0", "PIPE:cat", "nan", "-1", "1e999", "1_0"]
    ),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.binary(max_size=5),
    st.dates(),
    st.lists(st.integers(-9, 9), max_size=2),
)


def accounted_for(manifest: Path, rows: int | None) -> None:
    """It lists its rows, each as a source or as a reject, or is refused; nothing else is raised."""
    listing, refusal = None, ""
    try:
        listing = list_corpus(manifest)
    except ConfigError as error:
        refusal = str(error)
    if listing is None:
        assert manifest.name in refusal
        return
    assert listing.sources
    if rows is not None:
        assert len(listing.sources) + len(listing.rejects) == rows
    for source in listing.sources:
        assert source.path
        assert "://" not in source.path
        assert not source.path.startswith("pipe:")
        assert 0 <= (source.start_s or 0.0) < (source.end_s if source.end_s is not None else float("inf"))


@EXAMPLES
@given(st.binary(max_size=300))
def test_any_bytes_under_the_name_of_a_manifest_are_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("list.csv", "list.parquet"):
            (Path(folder) / name).write_bytes(content)
            accounted_for(Path(folder) / name, None)


@EXAMPLES
@given(st.lists(COLUMNS, max_size=4), st.lists(st.lists(CELLS, max_size=5), max_size=5))
def test_any_rows_in_a_csv_are_sources_or_rejects(columns: list[str], rows: list[list[Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.csv"
        with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
            csv.writer(file).writerows([["path", *columns], *([row or ["a.mp4"] for row in rows])])
        accounted_for(path, None)


@EXAMPLES
@given(st.data())
def test_any_table_in_a_parquet_gives_sources_or_rejects(data: st.DataObject) -> None:
    names = data.draw(st.lists(COLUMNS, max_size=3, unique=True))
    count = data.draw(st.integers(1, 4))
    columns = {}
    for name in ["path", *names]:
        kind = data.draw(
            st.sampled_from([st.text(max_size=9), st.floats(), st.integers(-(2**62), 2**62), st.booleans()])
        )
        columns[name] = data.draw(st.lists(st.one_of(st.none(), kind), min_size=count, max_size=count))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.parquet"
        try:
            pq.write_table(pa.table(columns), path)
        except (UnicodeEncodeError, pa.ArrowException):  # Nobody has such a file.
            return
        accounted_for(path, count)


@pytest.fixture(scope="module")
def index_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    schema = index_schema(["label"])
    values = {
        pa.string(): lambda name, n: f"{name}{n}",
        pa.binary(): lambda _, n: bytes(n),
        pa.list_(pa.binary()): lambda _, n: [bytes([n] * 32)],
        **{pa.list_(numbers): lambda _, n: [n] for numbers in (pa.float32(), pa.int32(), pa.int64())},
    }
    rows = [{field.name: values.get(field.type, lambda _, n: n)(field.name, n) for field in schema} for n in range(30)]
    path = tmp_path_factory.mktemp("index") / "000000.parquet"
    write_parquet(path, pa.Table.from_pylist(rows, schema))
    return path.read_bytes()


@EXAMPLES
@given(data=st.data())
def test_a_damaged_index_is_refused_with_the_stage_that_makes_it_or_read(
    index_bytes: bytes, data: st.DataObject
) -> None:
    """Flipped bits, and bytes that are missing. What can be read is a table; nothing else is raised."""
    content = bytearray(index_bytes)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "000000.parquet").write_bytes(content)
        for read in (read_whole_index, lambda corpus: read_index(corpus, "000000", ["key", "frames"])):
            table, refusal = None, ""
            try:
                table = read(Path(folder))
            except StageError as error:
                refusal = str(error)
            assert isinstance(table, pa.Table) or ("000000.parquet" in refusal and "xdc stage shard" in refusal)


def test_a_damaged_name_of_a_column_is_refused(index_bytes: bytes, tmp_path: Path) -> None:
    (tmp_path / "000000.parquet").write_bytes(index_bytes.replace(b"mp4_size", b"mp4_siz\xea"))
    with pytest.raises(StageError, match=r"000000\.parquet cannot be read .* xdc stage shard"):
        read_index(tmp_path, "000000")


@pytest.mark.parametrize("column", ["key", "source"])
def test_damaged_text_is_refused(column: str, tmp_path: Path) -> None:
    offsets, text = pa.array([0, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xea\xff")
    damaged = pa.StringArray.from_buffers(1, offsets, text)
    pq.write_table(pa.table({column: damaged}), tmp_path / "000000.parquet")
    with pytest.raises(StageError, match=r"000000\.parquet cannot be read .* xdc stage shard"):
        read_index(tmp_path, "000000")
