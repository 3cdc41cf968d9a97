"""Which inputs a corpus has: folders and manifests, and why an input is turned away."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.corpus.listing import list_corpus
from shards.errors import ConfigError
from shards.sources.source import Listing, Source


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def manifest(path: Path, columns: Sequence[str], *rows: Sequence[Any]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def paths(listing: Listing) -> list[str]:
    return [source.path for source in listing.sources]


def reasons(listing: Listing) -> dict[str, str]:
    assert {reject.step for reject in listing.rejects} <= {"list"}
    return {reject.source: reject.reason for reject in listing.rejects}


def test_a_folder_is_listed_recursively_in_a_fixed_order(tmp_path: Path) -> None:
    put(tmp_path, "b.mp4", "a/z.MKV", "a/b c/é.webm", "c.WAV")
    listing = list_corpus(tmp_path)
    assert paths(listing) == ["a/b c/é.webm", "a/z.MKV", "b.mp4", "c.WAV"]
    assert listing.root == tmp_path
    assert listing.rejects == ()


def test_what_is_no_media_file_by_its_name_is_a_reject(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "notes.txt", "sub/README")
    assert reasons(list_corpus(tmp_path)) == {
        "notes.txt": "not a media file by its name (.txt)",
        "sub/README": "not a media file by its name (no suffix)",
    }


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", ".hidden.mp4", ".cache/b.mp4", "._a.mp4")
    listing = list_corpus(tmp_path)
    assert paths(listing) == ["a.mp4"]
    assert listing.rejects == ()


def test_a_file_name_that_is_not_utf8_is_a_reject_that_can_be_shown(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system has only UTF-8 names")
    listing = list_corpus(tmp_path)
    assert paths(listing) == ["a.mp4"]
    assert reasons(listing) == {"caf\\xe9.mp4": "the file's name is not valid UTF-8: rename it"}


def test_a_link_to_a_folder_is_mentioned_and_a_link_to_a_file_is_a_source(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/deep/b.mp4", "videos/a.mp4")
    (tmp_path / "videos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "videos" / "c.mp4").symlink_to(tmp_path / "elsewhere" / "deep" / "b.mp4")
    listing = list_corpus(tmp_path / "videos")
    assert paths(listing) == ["a.mp4", "c.mp4"]
    assert list(reasons(listing)) == ["linked"]
    assert "a link to a folder is not followed" in reasons(listing)["linked"]


def test_the_folder_is_a_label_where_that_is_wanted(tmp_path: Path) -> None:
    put(tmp_path, "dog/a.mp4", "animals/cat/b.mp4", "c.mp4")
    by_path = {source.path: dict(source.labels) for source in list_corpus(tmp_path, label_from_folder=True).sources}
    assert by_path == {"animals/cat/b.mp4": {"label": "cat"}, "c.mp4": {}, "dog/a.mp4": {"label": "dog"}}
    assert list_corpus(tmp_path, label_from_folder=True).label_names == ["label"]
    assert list_corpus(tmp_path).label_names == []


def test_a_csv_manifest_gives_paths_spans_splits_and_labels(tmp_path: Path) -> None:
    columns = ["path", "start_s", "end_s", "split", "label", "label_speaker"]
    rows = [["v/a.mp4", "1.5", "4", "train", "dog", "anna"], [" b, c.mp4 ", "", "", "", "", ""]]
    file = manifest(tmp_path / "list.csv", columns, *rows)
    listing = list_corpus(file)
    assert listing.sources == (
        Source("v/a.mp4", 1.5, 4.0, "train", {"label": "dog", "label_speaker": "anna"}),
        Source("b, c.mp4", None, None, "", {}),
    )
    assert listing.root == tmp_path
    assert listing.label_names == ["label", "label_speaker"]


def test_a_byte_order_mark_and_windows_line_ends_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbfpath,label\r\na.mp4,dog\r\n")
    assert list_corpus(tmp_path / "list.csv").sources == (Source("a.mp4", labels={"label": "dog"}),)


def test_a_parquet_manifest_gives_the_same_as_a_csv(tmp_path: Path) -> None:
    table = pa.table(
        {
            "path": ["a.mp4", "b.mp4", None],
            "start_s": [0.5, None, None],
            "end_s": pa.array([2, None, None], pa.int32()),
            "label_class": pa.array([7, None, None], pa.int64()),
        }
    )
    pq.write_table(table, tmp_path / "list.parquet")
    listing = list_corpus(tmp_path / "list.parquet")
    assert listing.sources == (Source("a.mp4", 0.5, 2.0, "", {"label_class": "7"}), Source("b.mp4"))
    assert reasons(listing) == {"row 3": "row 3: no path"}


@pytest.mark.parametrize(
    ("start_s", "end_s", "reason"),
    [
        ("two", "", "start_s is 'two', not a number of seconds"),
        ("", "1:30", "end_s is '1:30', not a number of seconds"),
        ("-1", "", "start_s is '-1'; it must be zero or more"),
        ("", "inf", "end_s is 'inf'; it must be zero or more"),
        ("3", "3", "end_s (3.0) is not after start_s (3.0)"),
        ("3", "2.5", "end_s (2.5) is not after start_s (3.0)"),
        ("", "0", "end_s (0.0) is not after start_s (0.0)"),
    ],
)
def test_a_span_that_makes_no_sense_is_a_reject_with_its_row(
    tmp_path: Path, start_s: str, end_s: str, reason: str
) -> None:
    file = manifest(tmp_path / "l.csv", ["path", "start_s", "end_s"], ["ok.mp4", "", ""], ["bad.mp4", start_s, end_s])
    listing = list_corpus(file)
    assert paths(listing) == ["ok.mp4"]
    assert reasons(listing) == {"bad.mp4": f"row 2: {reason}"}


def test_objects_are_sources_and_urls_without_a_name_are_refused(tmp_path: Path) -> None:
    wrong = ["s3://bucket", "s3://bucket/", "s3:///a.mp4", "s3://bucket/a//b.mp4", "s3://bucket/../b.mp4", "s3://b/a/"]
    rows = [["s3://bucket/.a/..b/c.mp4"], *([name] for name in wrong)]
    listing = list_corpus(manifest(tmp_path / "l.csv", ["path"], *rows))
    assert paths(listing) == ["s3://bucket/.a/..b/c.mp4"]
    assert [reject.source for reject in listing.rejects] == wrong
    assert all("an object's URL is s3://BUCKET/NAME, without empty parts" in each.reason for each in listing.rejects)


@pytest.mark.parametrize(
    "address",
    [
        "http://host/a.mp4",
        "rtsp://host/live",
        "gs://bucket/a.mp4",
        "file:///etc/passwd",
        "pipe:cat /etc/passwd",
        "pipe:0",
    ],
)
def test_addresses_and_pipes_are_refused(tmp_path: Path, address: str) -> None:
    listing = list_corpus(manifest(tmp_path / "l.csv", ["path"], ["ok.mp4"], [address]))
    assert paths(listing) == ["ok.mp4"]
    assert reasons(listing) == {address: "row 2: only local files and s3:// are read, no other addresses and no pipes"}


def test_a_path_with_a_zero_byte_is_a_reject(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["ok.mp4", "a\0.mp4"]}), tmp_path / "l.parquet")
    assert reasons(list_corpus(tmp_path / "l.parquet")) == {"a\0.mp4": "row 2: the path holds a zero byte"}


def test_the_same_span_twice_is_a_reject_but_another_span_of_the_same_file_is_not(tmp_path: Path) -> None:
    rows = [["a.mp4", "", ""], ["a.mp4", "5", "9"], ["a.mp4", "5.0", "9.0"], ["a.mp4", "", ""]]
    listing = list_corpus(manifest(tmp_path / "l.csv", ["path", "start_s", "end_s"], *rows))
    assert [(source.start_s, source.end_s) for source in listing.sources] == [(None, None), (5.0, 9.0)]
    assert [reject.reason for reject in listing.rejects] == [
        f"row {number}: an earlier row has the same path, start_s and end_s" for number in (3, 4)
    ]


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        ("start", "Did you mean 'start_s'?"),
        ("End_s", "Did you mean 'end_s'?"),
        (" split", "Did you mean 'split'?"),
        ("lable", "Did you mean 'label'?"),
        ("fold", "Rename it label_... to keep it as a label."),
    ],
)
def test_an_unknown_column_is_an_error_that_names_what_was_meant(tmp_path: Path, column: str, hint: str) -> None:
    file = manifest(tmp_path / "l.csv", ["path", column], ["a.mp4", "1"])
    with pytest.raises(ConfigError) as caught:
        list_corpus(file)
    assert str(caught.value) == f"{file}: unknown column {column!r}. {hint}"


@pytest.mark.parametrize("column", ["Path", " path ", "PATH", "paths"])
def test_a_column_that_is_nearly_path_is_an_error_that_says_so(tmp_path: Path, column: str) -> None:
    file = manifest(tmp_path / "l.csv", ["label", column], ["x", "a.mp4"])
    with pytest.raises(ConfigError) as caught:
        list_corpus(file)
    assert str(caught.value) == (
        f"{file}: no column 'path'; its columns are label, {column}. Did you mean {column!r}? Rename it path."
    )


@pytest.mark.parametrize(("text", "columns"), [("name,label\na.mp4,x\n", "name, label"), ("", r"\(none\)")])
def test_a_manifest_without_paths_is_an_error_that_says_what_it_has(tmp_path: Path, text: str, columns: str) -> None:
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(ConfigError, match=rf"no column 'path'; its columns are {columns}"):
        list_corpus(tmp_path / "l.csv")


def test_a_row_that_is_too_short_has_no_value_there(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path,start_s,label\na.mp4\n")
    assert list_corpus(tmp_path / "l.csv").sources == (Source("a.mp4"),)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("l.csv", "path,label\ncafé.mp4,x\n".encode("latin-1"), "is not a CSV file in UTF-8"),
        ("l.csv", b'path\n"' + b"a" * 200_000 + b'"\n', "is not a CSV file in UTF-8: field larger"),
        ("l.parquet", b"path\na.mp4\n", "is not a Parquet file"),
        ("l.tsv", b"path\na.mp4\n", r"is a file that ends in '\.tsv'.*\.csv or \.parquet"),
        ("a.mp4", b"x", r"is a file that ends in '\.mp4'"),
        ("l.csv", b"path\n", "holds no video. It is empty"),
        ("l.csv", b"path\nhttp://x/a.mp4\n", "holds no video. http://x/a.mp4: row 1: only local files"),
    ],
)
def test_a_manifest_that_gives_nothing_is_an_error_that_says_why(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        list_corpus(tmp_path / name)


def test_a_folder_that_is_missing_empty_or_without_media_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing does not exist\. Give a folder"):
        list_corpus(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"holds no video\. It is empty"):
        list_corpus(tmp_path)
    put(tmp_path, "notes.txt")
    with pytest.raises(ConfigError, match=r"holds no video\. notes\.txt: not a media file"):
        list_corpus(tmp_path)
