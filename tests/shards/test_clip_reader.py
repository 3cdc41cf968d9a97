"""Random access to the members of tars."""

import hashlib
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.corpus.index import NO_MEMBER, read_index
from shards.corpus.plan import clip_key
from shards.corpus.reader import ClipReader
from shards.errors import StageError
from shards.objects.tars import MAX_OPEN


def row(key: str, offset: int, content: bytes) -> dict[str, object]:
    """The index row of a clip of which only the picture is stored."""
    stored = {"mp4_offset": offset, "mp4_size": len(content), "flac_offset": NO_MEMBER, "flac_size": 0}
    return {"key": key, **stored, "mp4_sha256": hashlib.sha256(content).hexdigest()}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_member_is_read_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "000000.tar").write_bytes(b"0123456789")
    with ClipReader(tmp_path) as reader:
        assert reader.read("000000", row("a", 2, b"234"), "mp4") == b"234"
        assert reader.read("000000", row("b", 10, b""), "mp4") == b""


def test_a_tar_that_ends_too_early_is_an_error_that_names_the_clip(built_corpus: Path, tmp_path: Path) -> None:
    shutil.copy(built_corpus / "000000.tar", tmp_path)
    rows = read_index(built_corpus, "000000").to_pylist()
    os.truncate(tmp_path / "000000.tar", rows[-1]["flac_offset"] + 1)
    with ClipReader(tmp_path) as reader:
        assert len(reader.read("000000", rows[0], "mp4")) == rows[0]["mp4_size"]
        with pytest.raises(StageError, match=f"000000.tar ends before the flac of clip {rows[-1]['key']} does"):
            reader.read("000000", rows[-1], "flac")


def test_a_clip_of_which_one_bit_changed_is_an_error_and_never_decoded(built_corpus: Path, tmp_path: Path) -> None:
    shutil.copy(built_corpus / "000000.tar", tmp_path)
    first, second, *_ = read_index(built_corpus, "000000").to_pylist()
    data = bytearray((tmp_path / "000000.tar").read_bytes())
    data[first["flac_offset"] + first["flac_size"] // 2] ^= 1
    (tmp_path / "000000.tar").write_bytes(data)
    with ClipReader(tmp_path) as reader:
        what = rf"000000.tar is damaged: the flac of clip {first['key']} is not .* xdc stage shard"
        with pytest.raises(StageError, match=what):
            reader.read("000000", first, "flac")
        assert len(reader.read("000000", first, "mp4")) == first["mp4_size"]
        assert len(reader.read("000000", second, "flac")) == second["flac_size"]


def test_a_missing_tar_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with (
        ClipReader(tmp_path) as reader,
        pytest.raises(StageError, match=r"000007\.tar cannot be opened \(No such file or directory\)\. Rebuild it"),
    ):
        reader.read("000007", row("a", 0, b"x"), "mp4")


def test_a_missing_or_damaged_index_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "000001.parquet").write_bytes(b"no parquet")
    for name in ("000000", "000001"):
        with pytest.raises(StageError, match=rf"{name}\.parquet cannot be read .*Rebuild it: xdc stage shard"):
            read_index(tmp_path, name)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files through /proc")
@pytest.mark.parametrize(
    "key", ["../../x", "/x", "a/b", "..", "", "a.b", "a\0b", "a\n", "é", "x" * 200, None, 7], ids=repr
)
def test_a_key_that_shard_does_not_make_is_refused_with_its_file(tmp_path: Path, key: object) -> None:
    keys = [7, 8] if isinstance(key, int) else [clip_key("a.mp4", 0), key]
    pq.write_table(pa.table({"key": keys, "source": ["a.mp4", "b.mp4"]}), tmp_path / "000000.parquet")
    with pytest.raises(StageError) as caught:
        read_index(tmp_path, "000000", ["key", "source"])
    assert str(caught.value).startswith(f"{tmp_path}/000000.parquet: the key {key!r} is not one that xdc makes")
    assert read_index(tmp_path, "000000", ["source"]).num_rows == 2


@pytest.mark.parametrize("source", ["-- .mp4", "é/視頻.mp4", "x" * 300, "a/" * 50 + "b_c-d.mkv", "..", ".mp4"])
def test_keys_that_shard_makes_are_taken(tmp_path: Path, source: str) -> None:
    pq.write_table(pa.table({"key": [clip_key(source, 86_399_999.5)]}), tmp_path / "000000.parquet")
    assert len(read_index(tmp_path, "000000")) == 1


def test_however_many_shards_few_files_are_open_and_none_afterwards(tmp_path: Path) -> None:
    names = [f"{n:06d}" for n in range(MAX_OPEN + 20)]
    for name in names:
        (tmp_path / f"{name}.tar").write_text(name)
    before = open_files()
    with ClipReader(tmp_path) as reader:
        for name in [*names, *names[:5], *reversed(names)]:
            assert reader.read(name, row("a", 0, name.encode()), "mp4") == name.encode()
        assert open_files() - before == MAX_OPEN
    assert open_files() == before
