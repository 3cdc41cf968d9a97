"""Every second up to the last packet of a source lies in a clip, or in a reject that says from where to where."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.corpus.index import read_whole_index
from shards.corpus.plan import make_plan
from shards.corpus.reader import ClipReader
from shards.corpus.stage import shard
from shards.errors import MediaError
from shards.media.cut import cut
from shards.media.decode import decode_frames
from shards.media.probe import probe
from shards.reject import KINDS
from shards.settings import CorpusSettings
from shards.sources.coverage import Span, slack_s, uncovered
from shards.sources.source import Listing, Source
from shards.sources.surveyed import Surveyed, survey_columns
from tests.places import DATA, ROOT, needs
from tests.shards.media_maker import Array, pictures_of, plain, tone, write_video
from tests.shards.packet_reader import last_packets_end

CASES, VIDEOS = DATA / "cases" / "media", DATA / "videos"
needs_cases = needs(CASES)
needs_videos = needs(VIDEOS)
SMALL = CorpusSettings(
    clip_seconds=2.0, min_seconds=1.0, short_side=32, fps=10, sample_rate=8000, workers=2, max_reject_share=1.0
)


def gaps(corpus: Path, folder: Path) -> list[Span]:
    """What of the sources' files is in no clip and no reject."""
    rows, rejects = read_whole_index(corpus).to_pylist(), pq.read_table(corpus / "rejects.parquet").to_pylist()
    found = [Span(row["source"], row["start_s"], row["start_s"] + row["duration_s"]) for row in rows]
    found += [Span(row["source"], row["start_s"], row["end_s"]) for row in rejects if row["end_s"] is not None]
    names = {row["path"] for row in pq.read_table(corpus / "sources.parquet").to_pylist()}
    asked = [Span(name, 0.0, last_packets_end(folder / name)) for name in sorted(names)]
    assert {row["kind"] for row in rejects} <= set(KINDS)
    return list(uncovered(asked, found, slack_s(10)))


def brighter(seconds: float) -> list[Array]:
    return [plain((5 * n % 250, 100, 100)) for n in range(round(25 * seconds))]


def patched(path: Path, *changes: tuple[bytes, int, bytes]) -> None:
    """Overwrite bytes so far behind a mark, wherever that stands."""
    content = bytearray(path.read_bytes())
    for mark, behind, new in changes:
        at = content.find(mark)
        assert at >= 0, mark
        while at >= 0:
            content[at + behind : at + behind + len(new)] = new
            at = content.find(mark, at + 1)
    path.write_bytes(content)


def shorten_mkv(path: Path) -> None:
    patched(path, (b"\x44\x89\x88", 3, struct.pack(">d", 1500.0)))


def shorten_mp4(path: Path) -> None:
    """Of media and tracks in their own clocks, and without the edit list that would say it too."""
    content = path.read_bytes()
    mdhd = content.find(b"mdhd")
    changes = [(b"mvhd", 20, struct.pack(">I", 1500)), (b"tkhd", 24, struct.pack(">I", 1500)), (b"elst", 0, b"free")]
    while mdhd >= 0:
        (clock,) = struct.unpack(">I", content[mdhd + 16 : mdhd + 20])
        changes.append((content[mdhd : mdhd + 20], 20, struct.pack(">I", round(1.5 * clock))))
        mdhd = content.find(b"mdhd", mdhd + 1)
    patched(path, *changes)


def shorten_flv(path: Path) -> None:
    patched(path, (b"duration\x00", 9, struct.pack(">d", 1.5)))


def shorten_avi(path: Path) -> None:
    """The frame count of the file and of each stream."""
    patched(path, (b"avih", 24, struct.pack("<I", 15)), (b"strh", 40, struct.pack("<I", 15)))


@pytest.mark.parametrize(
    ("suffix", "shorten", "how"),
    [
        ("mkv", shorten_mkv, {}),
        ("mp4", shorten_mp4, {}),
        ("flv", shorten_flv, {"video_codec": "flv1", "audio_codec": "libmp3lame", "sample_rate": 44100}),
        ("avi", shorten_avi, {"video_codec": "mpeg4", "audio_codec": "libmp3lame"}),
    ],
)
def test_a_header_that_tells_of_less_than_is_there_costs_nothing(
    tmp_path: Path, suffix: str, shorten: Callable[[Path], None], how: dict[str, Any]
) -> None:
    path = tmp_path / f"a.{suffix}"
    write_video(path, brighter(6.0), tone(440, 6.0, how.get("sample_rate", 48000)), **how)
    shorten(path)
    found = probe(path)
    assert found.duration_s == pytest.approx(6.0, abs=0.1)
    if suffix != "avi":  # FFmpeg does not pass on what AVI's header says where its index says more.
        assert found.header_duration_s == pytest.approx(1.5, abs=0.1)
    assert cut(path, 4.0, 6.0, SMALL).frames == 20


@pytest.mark.slow
@needs_cases
def test_the_shared_cases_are_accounted_for_to_their_last_packet(tmp_path: Path) -> None:
    record = shard(tmp_path / "corpus", CASES, SMALL)
    assert record.summary["wrong_headers"] == 2
    assert gaps(tmp_path / "corpus", CASES) == []
    sources = {row["path"]: row for row in pq.read_table(tmp_path / "corpus" / "sources.parquet").to_pylist()}
    for name, header_s, found_s in (("short.mkv", 5.0, 20.05), ("test-4867.mp4", 5.0, 6.01)):
        assert sources[name]["header_duration_s"] == pytest.approx(header_s, abs=0.01)
        assert sources[name]["duration_s"] == pytest.approx(found_s, abs=0.02)
    clips = read_whole_index(tmp_path / "corpus").to_pylist()
    assert sum(row["duration_s"] for row in clips if row["source"] == "short.mkv") == pytest.approx(20.0, abs=0.1)


@pytest.mark.slow
@needs_videos
def test_real_videos_are_accounted_for_to_their_last_packet(tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"clip_seconds": 10.0})
    shard(tmp_path / "corpus", VIDEOS, settings)
    assert gaps(tmp_path / "corpus", VIDEOS) == []


def test_sound_that_goes_on_after_the_picture_is_a_reject_with_its_span(tmp_path: Path) -> None:
    write_video(tmp_path / "raw" / "a.mkv", brighter(2.0), tone(440, 5.0), audio_codec="pcm_s16le")
    shard(tmp_path / "corpus", tmp_path / "raw", SMALL)
    (reject,) = pq.read_table(tmp_path / "corpus" / "rejects.parquet").to_pylist()
    assert (reject["kind"], reject["step"]) == ("no_picture", "plan")
    assert (reject["start_s"], reject["end_s"]) == (pytest.approx(2.0, abs=0.05), pytest.approx(5.0, abs=0.05))


def test_a_file_of_no_use_is_a_reject_from_its_first_to_its_last_packet(tmp_path: Path) -> None:
    write_video(tmp_path / "raw" / "mute.mp4", brighter(3.0), None)
    write_video(tmp_path / "raw" / "good.mp4", brighter(2.0), tone(440, 2.0))
    shard(tmp_path / "corpus", tmp_path / "raw", SMALL)
    rejects = pq.read_table(tmp_path / "corpus" / "rejects.parquet").to_pylist()
    (mute,) = (row for row in rejects if row["source"] == "mute.mp4")
    assert (mute["kind"], mute["start_s"], mute["end_s"]) == ("no_sound", 0.0, pytest.approx(3.0, abs=0.05))


def test_the_rest_of_a_clip_that_does_not_decode_is_a_reject_of_its_own(tmp_path: Path) -> None:
    path = write_video(tmp_path / "raw" / "a.mkv", brighter(2.0), tone(440, 2.0), audio_codec="pcm_s16le")
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for at, size in packets[
        47:
    ]:  # Few enough of 50 that the clip is kept, too many for the picture before to stand in.
        assert at is not None
        content[at + 4 : at + size] = b"\xff" * (size - 4)
    path.write_bytes(content)
    shard(tmp_path / "corpus", tmp_path / "raw", SMALL)
    assert gaps(tmp_path / "corpus", tmp_path / "raw") == []
    rejects = pq.read_table(tmp_path / "corpus" / "rejects.parquet").to_pylist()
    assert [(row["kind"], row["step"], row["key"]) for row in rejects] == [("damaged", "cut", "")]


def test_damage_is_judged_over_the_clip(tmp_path: Path) -> None:
    """Three of the first packets are more than a tenth of those so far, and less than a tenth of the clip's."""
    path = write_video(tmp_path / "a.mkv", brighter(3.0), tone(440, 3.0), audio_codec="pcm_s16le")
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for at, size in packets[4:7]:
        assert at is not None
        content[at + 4 : at + size] = b"\xff" * (size - 4)
    path.write_bytes(content)
    assert cut(path, 0.0, 3.0, SMALL).frames == 30
    with pytest.raises(MediaError, match=r"the picture is damaged: 3 of \d+ packets"):
        cut(path, 0.0, 0.5, SMALL.model_copy(update={"min_seconds": 0.1}))


def as_decoded(path: Path, size: tuple[int, int]) -> list[Array]:
    """Every picture in the order in which the decoder shows them."""
    with av.open(str(path)) as container:
        frames = [frame.reformat(*size, format="yuv420p", interpolation="AREA") for frame in container.decode(video=0)]
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in frames]


@needs_cases
@pytest.mark.parametrize(("name", "count"), [("x264.avi", 100), ("a.h264", 150)])
def test_pictures_without_times_are_shown_once_each_in_their_order(name: str, count: int) -> None:
    settings = CorpusSettings(clip_seconds=60, min_seconds=0.1, modalities=("video",), short_side=64, fps=25, crf=1)
    for start_s, end_s in ((0.0, probe(CASES / name, ("video",)).duration_s), (1.0, 3.0)):
        clip = cut(CASES / name, start_s, end_s, settings)
        wanted = as_decoded(CASES / name, (clip.width, clip.height))
        assert len(wanted) == count
        nearest = [min(range(count), key=lambda n: np.abs(wanted[n] - shown).mean()) for shown in pictures_of(clip)]
        assert nearest == list(range(round(25 * start_s), round(25 * end_s)))


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("mpeg4", {"bf": "2", "g": "12"}),
        ("mpeg2video", {"bf": "2", "g": "12"}),
        ("libx264", {"x264-params": "open-gop=1:keyint=12:bframes=2:b-adapt=0:scenecut=0"}),
    ],
)
def test_a_later_clip_of_an_avi_with_open_groups_begins_with_its_own_picture(
    tmp_path: Path, codec: str, options: dict[str, str]
) -> None:
    """Of the pictures between two groups the decoder leaves out those that it cannot show after a seek."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(100)]
    path = write_video(tmp_path / "a.avi", frames, None, video_codec=codec, options=options)
    settings = CorpusSettings(min_seconds=0.1, modalities=("video",), short_side=48, fps=25, crf=1)
    for start_s in (0.0, 1.0, 2.04, 3.0):
        clip = cut(path, start_s, 4.0, settings)
        wanted = as_decoded(path, (clip.width, clip.height))
        nearest = [min(range(100), key=lambda n: np.abs(wanted[n] - shown).mean()) for shown in pictures_of(clip)]
        assert nearest == list(range(round(25 * start_s), 100))


def test_a_slide_show_is_as_long_as_its_header_says(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", brighter(0.16), None, times_s=[0.0, 80.0, 160.0, 240.0])
    assert probe(path, ("video",)).duration_s == pytest.approx(240, abs=1)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_a_raw_stream_is_as_long_as_its_frames_at_its_rate(tmp_path: Path, codec: str) -> None:
    suffix = {"libx264": "h264", "libx265": "hevc", "mpeg2video": "m2v"}[codec]
    try:
        path = write_video(tmp_path / f"a.{suffix}", brighter(2.0), None, video_codec=codec, options={"g": "12"})
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this PyAV has no encoder {codec}")
    clip = cut(path, 0.0, probe(path, ("video",)).duration_s, SMALL.model_copy(update={"modalities": ("video",)}))
    assert clip.duration_s == pytest.approx(2.0, abs=0.1)
    assert len(decode_frames(clip.mp4, 0, clip.frames)) == 20


def test_uncovered_parts_are_found_and_overlapping_ones_count_once() -> None:
    asked = [Span("a", 0.0, 10.0), Span("a", 5.0, 12.0), Span("b", 0.0, 1.0)]
    found = [Span("a", 0.0, 4.0), Span("a", 3.0, 6.0), Span("a", 7.0, 20.0)]
    assert list(uncovered(asked, found, 0.1)) == [Span("a", 6.0, 7.0), Span("b", 0.0, 1.0)]
    assert list(uncovered(asked, [*found, Span("a", 5.95, 7.05), Span("b", 0.0, 0.95)], 0.1)) == []


def test_a_plan_asks_for_what_rows_name_up_to_the_last_packet() -> None:
    facts = Surveyed("a.mp4", 1, 1, "x", duration_s=4.0, width=8, height=8, sound_duration_s=6.0, probe_version=2)
    rows = (Source("a.mp4", 1.0, 3.0), Source("a.mp4", 3.5, None), Source("a.mp4", 9.0, None))
    plan = make_plan(SMALL, Listing(Path("x"), rows, ()), survey_columns([facts]))
    assert np.array_equal(plan.asked_s, [(1.0, 3.0), (3.5, 6.0), (np.nan, np.nan)], equal_nan=True)
    assert [(reject["kind"], reject["start_s"], reject["end_s"]) for reject in plan.rejects.to_pylist()] == [
        ("no_picture", 4.0, 6.0),
        ("too_short", 3.5, 4.0),
        ("outside", 9.0, 9.0),
    ]


def test_every_kind_of_reject_is_documented() -> None:
    text = (ROOT / "docs" / "media.md").read_text(encoding="utf-8")
    assert {kind for kind in KINDS if f"| `{kind}` |" not in text} == set()


def test_stored_clips_of_these_files_are_read_back(tmp_path: Path) -> None:
    write_video(tmp_path / "raw" / "a.avi", brighter(2.0), tone(440, 2.0), video_codec="mpeg4", audio_codec="mp2")
    shard(tmp_path / "corpus", tmp_path / "raw", SMALL)
    with ClipReader(tmp_path / "corpus") as reader:
        (row,) = read_whole_index(tmp_path / "corpus").to_pylist()
        assert len(decode_frames(reader.read(row["shard"], row, "mp4"), 0, row["frames"])) == 20
