"""The groups of pictures in the index: a view decoded from them has the frames of the whole clip, bit for bit."""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.corpus.index import GROUPS, index_path, read_index, shard_names
from shards.corpus.reader import ClipReader, Request
from shards.errors import MediaError, StageError
from shards.indexing.check import tar_faults
from shards.indexing.columns import _with_compact_groups
from shards.media.decode import StoredFrames, decode_frames, find_groups
from shards.objects.tars import LocalTars, Part
from tests.shards.media_maker import plain
from xdc_core.data.clips import ClipItem, ClipViews, ShardRows
from xdc_core.data.rows import corpus_rows
from xdc_core.modalities.video import VIDEO, VideoSettings
from xdc_core.modalities.view import Views


def clips(corpus: Path) -> list[tuple[str, dict[str, Any]]]:
    return [(shard, row) for shard in shard_names(corpus) for row in read_index(corpus, shard).to_pylist()]


@pytest.mark.parametrize("corpus", ["built_corpus", "tiny_corpus"])
def test_all_views_of_all_clips_are_the_same_from_groups_and_from_whole_clips(
    corpus: str, request: pytest.FixtureRequest
) -> None:
    corpus_path: Path = request.getfixturevalue(corpus)
    with ClipReader(corpus_path) as reader:
        for shard, row in clips(corpus_path):
            whole = decode_frames(reader.read(shard, row, "mp4"), 0, row["frames"])
            for count in {4, 8, row["frames"]}:
                spans = [(first, first + count) for first in range(row["frames"] - count + 1)]
                parts = reader.read_all([Request(shard, row, "mp4", span) for span in spans])
                for (first, end), part in zip(spans, parts, strict=True):
                    assert isinstance(part, StoredFrames)
                    np.testing.assert_array_equal(decode_frames(part, first, count), whole[first:end])


def test_the_groups_of_a_clip_adjoin_and_are_the_pictures_of_its_mp4(built_corpus: Path) -> None:
    with ClipReader(built_corpus) as reader:
        for shard, row in clips(built_corpus):
            mp4 = reader.read(shard, row, "mp4")
            packets = [packet for packet in av.open(io.BytesIO(mp4)).demux(video=0) if packet.size]
            keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
            assert row["mp4_group_frame"] == keys == list(range(0, row["frames"], 4))
            ends = [packets[key].pos for key in keys] + [packets[-1].pos + packets[-1].size]
            assert row["mp4_group_offset"] == ends
            assert [len(digest) for digest in row["mp4_group_sha256"]] == [32] * len(keys)
            assert all(begin < end for begin, end in pairwise(ends))


def test_a_view_reads_and_checks_only_its_groups(built_corpus: Path, tmp_path: Path) -> None:
    shard, row = clips(built_corpus)[0]
    tar = bytearray((built_corpus / f"{shard}.tar").read_bytes())
    tar[row["mp4_offset"] + row["mp4_group_offset"][1] + 5] ^= 1  # In the second group: frames 4 to 7.
    (tmp_path / f"{shard}.tar").write_bytes(tar)
    with ClipReader(tmp_path) as reader:
        (good,) = reader.read_all([Request(shard, row, "mp4", (0, 4))])
        assert decode_frames(good, 0, 4).shape == (4, 32, 42, 3)
        for span in ((3, 5), (4, 5), (0, row["frames"])):
            with pytest.raises(StageError, match=rf"the mp4 of clip {row['key']} is not what was stored"):
                reader.read_all([Request(shard, row, "mp4", span)])


def test_several_views_of_a_clip_are_made_from_their_own_groups(built_corpus: Path, tmp_path: Path) -> None:
    """What lies between them is neither read nor decoded."""
    shard, row = clips(built_corpus)[0]
    tar = bytearray((built_corpus / f"{shard}.tar").read_bytes())
    tar[row["mp4_offset"] + row["mp4_group_offset"][1] + 5] ^= 1  # In the second group: frames 4 to 7.
    (tmp_path / f"{shard}.tar").write_bytes(tar)
    rows, views = ShardRows(built_corpus, {shard: 1}, VIDEO), Views(VIDEO, VideoSettings(), 2)
    whole, damaged = (ClipViews(corpus, rows, views) for corpus in (built_corpus, tmp_path))
    wanted, found = (each[ClipItem(0, (0, 1, 8))][1] for each in (whole, damaged))
    assert wanted is not None
    assert found is not None
    assert np.array_equal(wanted.numpy(), found.numpy())
    with pytest.raises(StageError, match="is not what was stored"):
        damaged[ClipItem(0, (0, 3, 8))]


def test_what_several_requests_need_is_read_once(built_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[Mapping[str, Sequence[Part]]]()
    read = LocalTars.read
    monkeypatch.setattr(LocalTars, "read", lambda self, wanted: asked.append(wanted) or read(self, wanted))
    shard, row = clips(built_corpus)[0]
    with ClipReader(built_corpus) as reader:
        reader.read_all([Request(shard, row, "mp4", span) for span in ((0, 4), (1, 6), (5, 7))])
        reader.read_all([Request(shard, row, "flac"), Request(shard, row, "flac")])
    assert [len(wanted[shard]) for wanted in asked] == [2, 1]


@pytest.mark.parametrize(
    "change", [{"mp4_header": b"other"}, {"mp4_group_frame": [0, *range(5, 100, 4)]}, {"mp4_group_sha256": None}]
)
def test_all_that_decides_the_frames_of_a_group_is_checked(built_corpus: Path, change: dict[str, Any]) -> None:
    """The columns of the index that views use are mapped from a file, and are checked nowhere else."""
    shard, row = clips(built_corpus)[0]
    count = len(row["mp4_group_sha256"])
    values = {"mp4_group_sha256": [bytes(12)] * count} | {name: value for name, value in change.items() if value}
    values = {name: value[:count] if isinstance(value, list) else value for name, value in values.items()}
    if change.get("mp4_group_sha256", True):
        values["mp4_group_sha256"] = row["mp4_group_sha256"]
    with ClipReader(built_corpus) as reader, pytest.raises(StageError, match="is not what was stored"):
        reader.read_all([Request(shard, row | values, "mp4", (5, 6))])


def test_the_columns_of_a_corpus_have_the_same_groups_in_fewer_bytes(built_corpus: Path, tmp_path: Path) -> None:
    rows = corpus_rows(built_corpus, VIDEO, tmp_path)
    shard, row = clips(built_corpus)[0]
    frames, count = row["mp4_group_frame"], len(row["mp4_group_frame"])
    assert count > 2
    compact = rows[0][1]
    assert list(compact["mp4_group_frame"]) == frames[:2]
    assert compact["mp4_group_sha256"] == [digest[:12] for digest in row["mp4_group_sha256"]]
    spans = [(first, first + 1) for first in range(row["frames"])]
    with ClipReader(built_corpus) as reader:
        of_index, of_columns = (
            reader.read_all([Request(shard, each, "mp4", span) for span in spans]) for each in (row, compact)
        )
    assert of_columns == of_index


def test_groups_of_different_lengths_keep_their_frames_in_the_columns() -> None:
    frames = [[0, 4, 8], [0, 4, 7], [0, 4], [0], None, [0, 3, 6, 9], [0, 4, 8, 11]]
    rows = [
        {"mp4_group_frame": each, "mp4_group_sha256": each and [bytes(32)] * len(each), "mp4_size": 9}
        for each in frames
    ]
    table = pa.Table.from_pylist(rows, pa.schema([*GROUPS, ("mp4_size", pa.int64())]))
    found = _with_compact_groups(table.slice(1)), _with_compact_groups(table)
    wanted = [[0, 4], [0, 4, 7], [0, 4], [0], None, [0, 3], [0, 4, 8, 11]]
    assert [each["mp4_group_frame"].to_pylist() for each in found] == [wanted[1:], wanted]


def test_a_clip_without_groups_in_the_index_is_read_whole(built_corpus: Path) -> None:
    shard, row = clips(built_corpus)[0]
    with ClipReader(built_corpus) as reader:
        whole = reader.read(shard, row, "mp4")
        assert reader.read_all([Request(shard, row | {"mp4_header": None}, "mp4", (0, 2))]) == [whole]
        without = {name: value for name, value in row.items() if name not in GROUPS.names}
        assert reader.read_all([Request(shard, without, "mp4", (0, 2))]) == [whole]


@pytest.mark.parametrize(
    "change", [{"mp4_group_frame": [1]}, {"mp4_group_offset": []}, {"mp4_group_offset": [0, 10**9]}]
)
def test_groups_that_do_not_fit_the_clip_are_refused(built_corpus: Path, change: dict[str, Any]) -> None:
    shard, row = clips(built_corpus)[0]
    row |= {"mp4_group_frame": [0], "mp4_group_offset": [48, 60], "mp4_group_sha256": [bytes(32)]} | change
    with ClipReader(built_corpus) as reader, pytest.raises(StageError, match="do not fit the mp4 of clip"):
        reader.read_all([Request(shard, row, "mp4", (0, 1))])


def test_frames_that_the_groups_do_not_have_are_an_error_of_the_clip(built_corpus: Path) -> None:
    shard, row = clips(built_corpus)[0]
    with ClipReader(built_corpus) as reader:
        (part,) = reader.read_all([Request(shard, row, "mp4", (0, 4))])
    with pytest.raises(
        MediaError, match="does not decode: frames 2 to 9 were requested, its groups of pictures have 2 of them"
    ):
        decode_frames(part, 2, 8)


def encoded(**options: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264" if "codec" not in options else options.pop("codec"), rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = 64, 48, "yuv420p", options
        for number in range(20):
            picture = av.VideoFrame.from_ndarray(plain((number * 12, 80, 255 - number * 9)), format="rgb24")
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return file.getvalue()


def test_pictures_that_do_not_decode_group_by_group_have_no_groups() -> None:
    assert find_groups(encoded(bf="0", g="5")) is not None
    assert find_groups(encoded(bf="3", g="12")) is None  # Frames depend on later ones.
    assert find_groups(encoded(bf="0", g="5", slices="4")) is None
    assert find_groups(encoded(codec="mpeg4")) is None
    assert find_groups(b"no MP4") is None


def test_verification_compares_the_groups_with_the_tar(built_corpus: Path, tmp_path: Path) -> None:
    shard = shard_names(built_corpus)[0]
    (tmp_path / f"{shard}.tar").write_bytes((built_corpus / f"{shard}.tar").read_bytes())
    table = read_index(built_corpus, shard)
    frames = table["mp4_group_frame"].to_pylist()
    frames[0][1] += 1
    place = table.column_names.index("mp4_group_frame")
    changed = table.set_column(place, table.schema.field(place), pa.array(frames, pa.list_(pa.int32())))
    pq.write_table(changed, index_path(tmp_path, shard))
    key = table["key"][0].as_py()
    assert list(tar_faults(tmp_path, shard)) == [f"the groups of pictures of clip {key} are not where the index says"]
