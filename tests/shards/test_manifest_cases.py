"""Manifests that went wrong in use: each is right, or an error that says what is wrong and where."""

import json
import math
import re
from collections import Counter
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.corpus.listing import list_corpus
from shards.errors import ConfigError
from shards.sources.source import Listing
from tests.places import DATA, needs

NOTHING = ["", " ", "nan", "NaN", "NAN", "None", "NaT", "<NA>"]
CASES = DATA / "cases" / "manifests"
needs_cases = needs(CASES)
# Of every case that can be listed: the labels by path, and the reasons of its rejects.
LISTED = {
    "unquoted_comma.csv": ({"b.mp4": "Speech"}, ["row 1, line 2: 3 fields, the header has 2"]),
    "comma_in_path.csv": ({"b.mp4": "y"}, ["row 1, line 2: 3 fields, the header has 2"]),
    "nan.csv": ({"a.mp4": None, "b.mp4": None, "c.mp4": None}, ["row 4: no path", "row 5: no path"]),
    "floatlabel.parquet": ({"a.mp4": "1", "b.mp4": None, "c.mp4": "3"}, []),
    "pandasidx.parquet": ({"a.mp4": "x", "b.mp4": None}, []),
}
REFUSED = {
    "manifest_lost_rows.csv": 'line 3: a quote is opened and not closed in the line.*v1.mp4,"dog',
    "quote_open.csv": "line 2: a quote is opened and not closed in the line",
    "dupcol.csv": r"2 columns are called 'label' \(numbers 2, 3\)",
    "dups.csv": "row 1 and row 4 are both a.mp4, but label is 'x' and 'y'",
    "index_col.csv": "index=False",
    "binary.parquet": "the column 'path' is of type binary: a path is text",
}


@needs_cases
def test_there_is_a_right_value_for_every_case() -> None:
    assert {path.name for path in CASES.iterdir()} == LISTED.keys() | REFUSED.keys()


@needs_cases
@pytest.mark.parametrize("name", LISTED)
def test_a_case_that_can_be_used_gives_its_labels_and_a_reject_for_every_other_row(name: str) -> None:
    labels, reasons = LISTED[name]
    listing = list_corpus(CASES / name)
    assert {source.path: source.labels.get("label") for source in listing.sources} == labels
    assert [reject.reason[: len(reason)] for reject, reason in zip(listing.rejects, reasons, strict=True)] == reasons
    assert {(source.start_s, source.end_s, source.split) for source in listing.sources} == {(None, None, "")}


@needs_cases
@pytest.mark.parametrize("name", REFUSED)
def test_a_case_that_cannot_be_used_is_an_error_that_names_file_and_fault(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: .*{REFUSED[name]}"):
        list_corpus(CASES / name)


def listed(tmp_path: Path, text: str | bytes) -> Listing:
    (tmp_path / "l.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return list_corpus(tmp_path / "l.csv")


def found(listing: Listing) -> dict[str, tuple[str, dict[str, str]]]:
    return {source.path: (source.split, dict(source.labels)) for source in listing.sources}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('path,label\na.mp4,x\nb.mp4,"y\n', 3),
        ('path,label\na.mp4,"x\nb.mp4,y"\nc.mp4,z\n', 2),
        ('path,label,split\na.mp4,"x\nb.mp4"\nc.mp4,z,train\n', 2),
        ('path,label,split\na.mp4,x,test\nb.mp4,"x\nc.mp4,z,train"\n', 3),
        ('path\na.mp4\n"b.mp4\nc"\n', 3),
        ('path,label\n"a.mp4,x\nb.mp4,"y"\nc.mp4,z\n', 2),
        ('path,label\r\na.mp4,x\r\nb.mp4,"y\r\nc.mp4,z\r\n', 3),
        ('path,label\na.mp4,"say "hi","go\nb.mp4,x\n', 2),
        ('path,label,split\r\na.mp4,"x\r\nb.mp4\r\ny"\r\nc.mp4,z,train\r\n', 2),
        ('path,label,split\ra.mp4,"x\rb.mp4"\rc.mp4,z,train\r', 2),
        ('path,"label\na.mp4,x\nb.mp4,y\n', 1),
        ('path,label\na.mp4,"' + "x\nb.mp4," * 20_000, 2),
    ],
)
def test_a_quote_that_would_swallow_rows_is_an_error_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(ConfigError, match=rf"l\.csv: line {line}: a quote is opened and not closed in the line"):
        listed(tmp_path, text)


def test_a_label_of_two_lines_is_kept(tmp_path: Path) -> None:
    listing = listed(tmp_path, 'path,label,split\na.mp4,"barking\nand growling",train\nb.mp4,"a, ""b""",test\n')
    assert found(listing) == {
        "a.mp4": ("train", {"label": "barking\nand growling"}),
        "b.mp4": ("test", {"label": 'a, "b"'}),
    }


def test_stray_quotes_within_a_line_reject_that_row_alone(tmp_path: Path) -> None:
    listing = listed(tmp_path, 'path,label\na.mp4,"say "hi" now"\nb.mp4,5" disk\n')
    assert found(listing) == {"b.mp4": ("", {"label": '5" disk'})}
    (reject,) = listing.rejects
    assert reject.source == "a.mp4"
    assert reject.reason.startswith("row 1, line 2: text after a closing quote: put a cell")


def test_empty_cells_beyond_the_header_lose_nothing(tmp_path: Path) -> None:
    listing = listed(tmp_path, "path,label\na.mp4,x,,\nb.mp4,y, ,z\n\nc.mp4\n")
    assert found(listing) == {"a.mp4": ("", {"label": "x"}), "c.mp4": ("", {})}
    assert [reject.source for reject in listing.rejects] == ["b.mp4"]
    assert "row 2, line 3: 4 fields, the header has 2" in listing.rejects[0].reason


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_an_error_that_asks_for_commas(tmp_path: Path, separator: str) -> None:
    with pytest.raises(ConfigError, match=r"l\.csv: the columns are separated by a \w+: .*must be a comma"):
        listed(tmp_path, f"path{separator}label\na.mp4{separator}x, y\n")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("path,label\na.mp4,x\n".encode("utf-16"), "it looks like UTF-16. Save it as UTF-8"),
        ("path,label\na.mp4,x\n".encode("utf-16-le"), "it looks like UTF-16. Save it as UTF-8"),
        ("path,label\na.mp4,x\ncafé.mp4,y\n".encode("latin-1"), "line 3 holds the byte 0xe9. Save it as UTF-8"),
        (b"\xe9,path\n", "line 1 holds the byte 0xe9"),
    ],
)
def test_another_encoding_is_an_error_that_names_it_or_its_line(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"l\.csv is not a CSV file in UTF-8: {says}"):
        listed(tmp_path, content)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("Unnamed: 0,path", r"column 1 \('Unnamed: 0'\) is the index.*index=False"),
        ("path,Unnamed: 0.1", r"column 2 \('Unnamed: 0.1'\) is the index.*index=False"),
        ("path,label,", "column 3 has no name. Name it, or remove it"),
        ("path,split,path", r"2 columns are called 'path' \(numbers 1, 3\)"),
    ],
)
def test_a_column_of_no_use_is_an_error_that_says_which(tmp_path: Path, header: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"l\.csv: {says}"):
        listed(tmp_path, f"{header}\n0,a.mp4,x\n")


def test_what_stands_for_no_value_is_none_in_every_column(tmp_path: Path) -> None:
    rows = "".join(f"{n}.mp4,{word},{word},{word},{word}\n" for n, word in enumerate(NOTHING))
    listing = listed(
        tmp_path, f"path,label,split,start_s,end_s\n{rows}" + "".join(f"{word},x,,,\n" for word in NOTHING)
    )
    assert found(listing) == {f"{n}.mp4": ("", {}) for n in range(len(NOTHING))}
    assert {(source.start_s, source.end_s) for source in listing.sources} == {(None, None)}
    assert [reject.reason.split(": ", 1)[1] for reject in listing.rejects] == ["no path"] * len(NOTHING)


def stored(tmp_path: Path, table: pa.Table) -> Listing:
    pq.write_table(table, tmp_path / "l.parquet")
    return list_corpus(tmp_path / "l.parquet")


def test_labels_of_every_type_become_text(tmp_path: Path) -> None:
    columns = {
        "label_float": pa.array([2.0, 2.5, math.nan, None]),
        "label_decimal": pa.array([Decimal("2.00"), Decimal("2.50"), None, None]),
        "label_bool": [True, False, None, None],
        "label_day": [date(2026, 1, 2), None, None, None],
        "label_time": pa.array([datetime(2026, 1, 2, 3), None, None, None], pa.timestamp("ns")),
        "label_category": pa.array(["x", "y", None, "nan"]).dictionary_encode(),
        "split": pa.array([1.0, math.nan, None, 2.0], pa.float32()),
        "start_s": pa.array([0.5, math.nan, None, 1.0]),
        "end_s": pa.array([None, math.nan, None, 3], pa.float32()),
    }
    listing = stored(tmp_path, pa.table({"path": pa.array([*"abcd"], pa.large_string())} | columns))
    assert found(listing) == {
        "a": (
            "1",
            {
                "label_float": "2",
                "label_decimal": "2",
                "label_bool": "True",
                "label_day": "2026-01-02",
                "label_time": "2026-01-02 03:00:00",
                "label_category": "x",
            },
        ),
        "b": ("", {"label_float": "2.5", "label_decimal": "2.50", "label_bool": "False", "label_category": "y"}),
        "c": ("", {}),
        "d": ("2", {}),
    }
    spans = [(source.start_s, source.end_s) for source in listing.sources]
    assert spans == [(0.5, None), (None, None), (None, None), (1.0, 3.0)]


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("path", pa.array([b"a.mp4"]), "of type binary: a path is text"),
        ("path", pa.array([b"a.mp4"], pa.binary(5)), r"of type fixed_size_binary\[5\]: a path is text"),
        ("path", pa.array([{"bytes": b"", "path": "a.mp4"}]), "of type struct<.*: a path is text"),
        ("path", pa.array([["a.mp4"]]), "of type list<.*: a path is text"),
        ("path", pa.array([7]), "of type int64: a path is text"),
        ("path", pa.array([b"a.mp4"]).dictionary_encode(), "of type dictionary<values=binary.*: a path is text"),
        ("start_s", pa.array([timedelta(seconds=2)]), r"of type duration\[us\]: seconds are numbers"),
        ("end_s", pa.array([True]), "of type bool: seconds are numbers"),
        ("label", pa.array([b"dog"]), "of type binary: a split or label is text"),
        ("split", pa.array([b"train"]), "of type binary: a split or label is text"),
    ],
)
def test_a_column_of_the_wrong_type_is_an_error_that_names_it(
    tmp_path: Path, column: str, values: pa.Array, says: str
) -> None:
    with pytest.raises(ConfigError, match=rf"l\.parquet: the column '{column}' is {says}"):
        stored(tmp_path, pa.table({"path": pa.array(["a.mp4"])} | {column: values}))


def test_a_column_without_any_value_is_of_no_type_and_no_trouble(tmp_path: Path) -> None:
    listing = stored(tmp_path, pa.table({"path": ["a.mp4"], "start_s": pa.nulls(1), "label": pa.nulls(1)}))
    assert found(listing) == {"a.mp4": ("", {})}


def test_two_columns_of_one_name_are_an_error_in_parquet_too(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a.mp4"]), pa.array(["x"]), pa.array(["y"])], ["path", "label", "label"])
    with pytest.raises(ConfigError, match=r"l\.parquet: 2 columns are called 'label' \(numbers 2, 3\)"):
        stored(tmp_path, table)


def test_the_index_of_a_pandas_frame_is_passed_over_unless_it_is_a_column_of_manifests(tmp_path: Path) -> None:
    def noted(*columns: str | dict[str, str]) -> dict[str, str]:
        return {"pandas": json.dumps({"index_columns": columns})}

    table = pa.table({"label": ["x"], "path": ["a.mp4"], "number": [5], "__index_level_1__": [7]})
    with pytest.raises(ConfigError, match="unknown column 'number'"):
        stored(tmp_path, table)
    indexed = table.replace_schema_metadata(noted("path", "number", "__index_level_1__"))
    assert found(stored(tmp_path, indexed)) == {"a.mp4": ("", {"label": "x"})}
    counted = table.select(["path"]).replace_schema_metadata(noted({"kind": "range"}))
    assert found(stored(tmp_path, counted)) == {"a.mp4": ("", {})}


def test_a_file_is_one_source_however_its_path_is_written(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    folder = tmp_path / "link"
    ways = ["a.mp4", "./a.mp4", ".//a.mp4", "sub/../a.mp4", "sub/./../a.mp4", "../real/a.mp4"]
    ways += [f"{folder}/a.mp4", f"{tmp_path}/real/a.mp4", f"/{folder}/a.mp4", f"{folder}/sub/../a.mp4"]
    for first in ways:
        listing = listed(folder, "path,label\n" + "".join(f"{way},x\n" for way in (first, *ways)))
        assert found(listing) == {"a.mp4": ("", {"label": "x"})}
        assert len(listing.rejects) == len(ways)
        assert {reject.reason.split(": ", 1)[1] for reject in listing.rejects} == {
            "an earlier row has the same path, start_s and end_s"
        }


def test_a_file_outside_the_folder_keeps_its_path_and_is_one_source_too(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    rows = ["../a.mp4", f"{tmp_path}/a.mp4", f"{tmp_path}//sub/../b.mp4", "../b.mp4", "../sub/./c.mp4"]
    listing = listed(tmp_path / "lists", "path\n" + "".join(f"{row}\n" for row in rows))
    assert [source.path for source in listing.sources] == ["../a.mp4", f"{tmp_path}/b.mp4", "../sub/c.mp4"]
    assert [reject.source for reject in listing.rejects] == [f"{tmp_path}/a.mp4", "../b.mp4"]


def test_links_are_not_followed_and_what_lies_above_one_is_not_mistaken(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "sub").mkdir(parents=True)
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "sub").symlink_to(tmp_path / "elsewhere" / "sub")
    (folder / "b.mp4").symlink_to(folder / "a.mp4")
    # The system opens elsewhere/a.mp4 for sub/../a.mp4.
    listing = listed(folder, "path\na.mp4\nsub/../a.mp4\nb.mp4\nsub/a.mp4\nsub/../a.mp4\n")
    assert [source.path for source in listing.sources] == ["a.mp4", "sub/../a.mp4", "b.mp4", "sub/a.mp4"]
    assert len(listing.rejects) == 1


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["a.mp4,x,,train", "b.mp4,x,,", "./a.mp4,x,,test"], "row 1 and row 3 are both a.mp4, but split is 'train'"),
        (["a.mp4,x,,", "a.mp4,y,,"], "row 1 and row 2 are both a.mp4, but label is 'x' and 'y'"),
        (["a.mp4,x,,", "a.mp4,,,"], "row 1 and row 2 are both a.mp4, but label is 'x' and ''"),
        (["a.mp4,x,0,", "a.mp4,y,,"], "row 1 and row 2 are both a.mp4, but label is 'x' and 'y'"),
        (["a.mp4,x,,a", "a.mp4,y,,b"], "label is 'x' and 'y', split is 'a' and 'b'"),
        (["a.mp4,x,,", *["a.mp4,y,,"] * 5], r"row 1 and row 4 are both.*\(and 2 more\)"),
    ],
)
def test_rows_that_contradict_each_other_are_an_error_that_names_both(
    tmp_path: Path, rows: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        listed(tmp_path, "path,label,start_s,split\n" + "".join(f"{row}\n" for row in rows))


def test_rows_on_other_spans_or_with_splits_spelt_otherwise_do_not_contradict_each_other(tmp_path: Path) -> None:
    listing = listed(tmp_path, "path,label,start_s,split\na.mp4,x,0, Train\n./a.mp4,y,5,test\na.mp4,x,,train\n")
    assert [(source.labels["label"], source.split) for source in listing.sources] == [("x", " Train"), ("y", "test")]
    assert [reject.source for reject in listing.rejects] == ["a.mp4"]


def test_whatever_is_typed_into_a_manifest_every_row_is_a_source_a_reject_or_part_of_an_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = ["dog", '"a, b"', "", '"c ""d"""', "x"]
    lines = ["path,label,split", *(f"{number}.mp4,{label},train" for number, label in enumerate(labels))]
    outcomes = Counter[str]()
    for _ in range(1500):
        text = list("\n".join(lines) + "\n")
        for place in sorted(rng.integers(len(lines[0]) + 1, len(text), rng.integers(1, 5)), reverse=True):
            text.insert(place, rng.choice(['"', '""', ",", " ", ";", ',"', '",']))
        try:
            listing = listed(tmp_path, "".join(text))
        except ConfigError as error:
            outcomes["error" if re.search(r"l\.csv: (line|row) \d", str(error)) else str(error)] += 1
            continue
        assert len(listing.sources) + len(listing.rejects) == len(lines) - 1, "".join(text)
        outcomes["rejects" if listing.rejects else "all"] += 1
    assert outcomes.keys() == {"error", "rejects", "all"}
    assert min(outcomes.values()) > 100
