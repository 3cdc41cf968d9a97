"""Rows and rejects are counted where they are written; what is missing is an error."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from shards.errors import StageError
from shards.store.parquet import write_parquet
from shards.store.row_count import count_rows_and_rejects


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Two shards: three rows, and two rows with a reject."""
    write_parquet(tmp_path / "000000.parquet", pa.table({"key": ["a", "b", "c"]}))
    write_parquet(tmp_path / "000001.parquet", pa.table({"key": ["d", "e"]}))
    (tmp_path / "000001.rejects.json").write_text(json.dumps([{"key": "f"}]))
    return tmp_path


def test_rows_and_rejects_are_summed_over_the_shards(directory: Path) -> None:
    assert count_rows_and_rejects(directory, "extract", {"000000": 3, "000001": 3}) == (5, 1)


def test_a_rejected_key_may_stand_for_several_rows(directory: Path) -> None:
    assert count_rows_and_rejects(directory, "embed", {"000000": 3, "000001": 12}, lambda key: 10) == (5, 10)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"000000": 3, "000001": 3, "000002": 500}, r"000002\.parquet: the shard's 500 rows are not there"),
        ({"000000": 4, "000001": 2}, r"000000\.parquet: 3 rows and 0 rejects for 4 rows in"),
        ({"000000": 3, "000001": 2}, r"000001\.parquet: 2 rows and 1 rejects for 2 rows in"),
    ],
    ids=["missing shard", "missing row", "one too many"],
)
def test_what_does_not_add_up_in_a_shard_is_an_error_that_names_it(
    directory: Path, wanted: dict[str, int], said: str
) -> None:
    with pytest.raises(StageError, match=said):
        count_rows_and_rejects(directory, "extract", wanted)


def test_a_file_that_is_no_parquet_is_an_error_that_names_it(directory: Path) -> None:
    (directory / "000000.parquet").write_bytes(b"half")
    with pytest.raises(StageError, match=r"000000\.parquet: the shard's 3 rows are not there"):
        count_rows_and_rejects(directory, "extract", {"000000": 3})
