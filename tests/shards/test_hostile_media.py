"""Files that lie, are damaged, or want too much or something else: each costs itself, with the right reason."""

import re
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.corpus.index import read_whole_index
from shards.corpus.listing import list_corpus
from shards.corpus.stage import shard
from shards.errors import MediaError, StageError
from shards.media.container import _formats
from shards.media.cut import cut
from shards.media.decode import decode_sound
from shards.media.probe import probe
from shards.settings import CorpusSettings
from shards.store.manifest import read_manifest
from tests.shards.media_maker import Array, pictures_of, plain, tone, write_video

SMALL = CorpusSettings(short_side=48, fps=25, min_seconds=0.5)
PICTURE = SMALL.model_copy(update={"modalities": ("video",)})


def grey(level: int, size: tuple[int, int] = (64, 48)) -> Array:
    return plain((level, level, level), size)


def refused(path: Path, **changes: Any) -> str:
    """The reason for which the first 1.2 s of a file become no clip."""
    with pytest.raises(MediaError) as caught:
        cut(path, 0.0, 1.2, SMALL.model_copy(update=changes))
    return str(caught.value)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_video(tmp_path / "good.mp4", [grey(4 * n + 20, (96, 64)) for n in range(30)], tone(440, 1.2))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_pixels": 6000}, r"the picture is 96x64: larger than max_pixels \(6000\)"),
        ({"max_fps": 10.0}, r"the video has 25 frames per second: more than max_fps \(10\)"),
        ({"max_clip_mb": 0.001}, r"the encoded clip is larger than max_clip_mb \(0.001\)"),
    ],
)
def test_caps_hold_while_a_file_is_decoded_whatever_its_header_said(
    good: Path, changes: dict[str, Any], reason: str
) -> None:
    assert re.fullmatch(reason, refused(good, **changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_pixels": 6000}, "the picture is 96x64: larger than max_pixels (6000)"),
        ({"max_fps": 10.0}, "the video has 25 frames per second: more than max_fps (10)"),
        ({"max_hours": 0.0001}, "it is 0.0 hours long: more than max_hours (0.0001)"),
    ],
)
def test_caps_decide_before_a_file_is_decoded_and_a_new_cap_is_asked_without_reading_it_again(
    good: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    (tmp_path / "videos").mkdir()
    good.rename(tmp_path / "videos" / "a.mp4")
    write_video(tmp_path / "videos" / "b.mp4", [grey(9)] * 12, tone(440, 1.2), fps=10)
    first = shard(tmp_path / "corpus", tmp_path / "videos", SMALL.model_copy(update={"workers": 1}))
    assert first.rows == 2
    capped = SMALL.model_copy(update={"workers": 1, "max_reject_share": 1.0, **changes})
    if "max_hours" in changes:  # Neither is left: that is the stage's own error, which names the reason.
        with pytest.raises(StageError, match=r"hours long: more than max_hours"):
            shard(tmp_path / "corpus", tmp_path / "videos", capped.model_copy(update={"max_reject_share": 0.5}))
        return
    second = shard(tmp_path / "corpus", tmp_path / "videos", capped)
    assert (second.rows, second.fingerprint == first.fingerprint) == (1, False)
    rejects = pq.read_table(tmp_path / "corpus" / "rejects.parquet").to_pylist()
    assert [(row["source"], row["step"], row["reason"]) for row in rejects] == [("a.mp4", "probe", reason)]
    # The old cap, the old corpus.
    back = shard(tmp_path / "corpus", tmp_path / "videos", SMALL.model_copy(update={"workers": 1}))
    assert (back.reused, back.fingerprint) == (True, first.fingerprint)


def test_a_corpus_is_what_it_was_as_long_as_no_cap_is_changed(good: Path, tmp_path: Path) -> None:
    shard(tmp_path / "corpus", good.parent, SMALL.model_copy(update={"workers": 1}))
    manifest = read_manifest(tmp_path / "corpus")
    assert manifest is not None
    assert not {name for name in manifest.settings if name.startswith(("max_", "clip_c", "clip_m", "clip_t"))}


def two_sizes(path: Path, second: tuple[int, int]) -> Path:
    """A picture of 64x48 for 0.6 s that goes on in another size, as broadcasts do."""
    one = write_video(path.with_name("one.ts"), [grey(60)] * 15, tone(440, 0.6))
    later = [grey(180, second)] * 15
    two = write_video(path.with_name("two.ts"), later, tone(440, 0.6), picture_start_s=0.6, sound_start_s=0.6)
    path.write_bytes(one.read_bytes() + two.read_bytes())
    return path


def test_a_picture_that_changes_its_size_keeps_the_first_one(tmp_path: Path) -> None:
    clip = cut(two_sizes(tmp_path / "a.ts", (128, 128)), 0.0, 1.2, PICTURE)
    assert (clip.width, clip.height) == (64, 48)
    assert 25 <= clip.frames <= 30
    levels = pictures_of(clip).mean((1, 2, 3))
    assert levels[:12] == pytest.approx(60, abs=4)
    assert levels[-8:] == pytest.approx(180, abs=4)


def test_a_picture_that_becomes_too_large_in_the_middle_is_rejected(tmp_path: Path) -> None:
    path = two_sizes(tmp_path / "a.ts", (640, 480))
    assert refused(path, max_pixels=100_000, modalities=("video",)) == (
        "the picture is 640x480: larger than max_pixels (100000)"
    )


def test_a_header_that_lies_about_the_duration_is_not_believed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [grey(99)] * 30, tone(440, 1.2))
    content = path.read_bytes()
    assert content.count(b"\x44\x89\x88") == 1  # Duration, a number of 8 bytes.
    at = content.index(b"\x44\x89\x88") + 3
    path.write_bytes(content[:at] + struct.pack(">d", 20 * 3600 * 1000.0) + content[at + 8 :])
    with av.open(str(path)) as container:
        assert (container.duration or 0) / 1e6 == pytest.approx(20 * 3600)
    assert probe(path).duration_s == pytest.approx(1.2, abs=0.05)


def test_a_long_recording_that_was_cut_off_is_as_long_as_what_is_left(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [grey(n) for n in range(120)], None, fps=1)
    assert probe(path, ["video"]).duration_s == pytest.approx(120, abs=1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 20 < probe(path, ["video"]).duration_s < 100


def test_one_damaged_timestamp_makes_no_hours(tmp_path: Path) -> None:
    """In MPEG-TS the duration is taken from the last timestamp."""
    path = write_video(tmp_path / "a.ts", [grey(99)] * 30, None, options={"g": "12", "bf": "0"})
    with av.open(str(path)) as container:
        at = [packet.pos for packet in container.demux(video=0) if packet.size][-1]
    content = bytearray(path.read_bytes())
    assert at is not None
    mark = content.index(b"\0\0\1\xe0", at) + 9  # Five bytes behind the header of the last packet: 33 bits of time.
    content[mark] ^= 0b0010
    path.write_bytes(content)
    with av.open(str(path)) as container:
        assert max(packet.pts or 0 for packet in container.demux(video=0)) / 90000 > 3600
    assert probe(path, ["video"]).duration_s == pytest.approx(1.2, abs=0.1)


def damage(path: Path, numbers: list[int]) -> None:
    """Overwrite packets of the picture of an MP4."""
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for number in numbers:
        at, size = packets[number]
        assert at is not None
        content[at : at + size] = b"\xff" * size
    path.write_bytes(content)


def test_a_packet_that_does_not_decode_costs_no_clip(good: Path) -> None:
    damage(good, [20])
    clip = cut(good, 0.0, 1.2, SMALL)
    assert (clip.frames, clip.samples) == (30, 19200)
    assert pictures_of(clip)[:20].mean((1, 2, 3)) == pytest.approx([4 * n + 20 for n in range(20)], abs=2)


def test_a_file_of_which_many_packets_do_not_decode_is_rejected(good: Path) -> None:
    damage(good, list(range(5, 25)))
    assert re.match(r"the picture is damaged: \d+ of 3\d packets do not decode", refused(good))


def test_what_stands_behind_the_sound_of_an_mp3_costs_no_clip(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp3", [], tone(440, 2.0), audio_codec="libmp3lame")
    whole = cut(path, 0.0, 2.0, CorpusSettings(modalities=("audio",)))
    path.write_bytes(path.read_bytes() + b"TAG" + b"a title".ljust(125, b"\0"))
    tagged = cut(path, 0.0, 2.0, CorpusSettings(modalities=("audio",)))
    assert abs(tagged.samples - whole.samples) < 100
    assert np.abs(decode_sound(tagged.flac)[:30000] - decode_sound(whole.flac)[:30000]).max() < 1e-3


def test_an_encrypted_stream_is_said_to_be_one(good: Path) -> None:
    content = good.read_bytes()
    good.write_bytes(content.replace(b"avc1", b"encv"))
    assert "encrypt" in refused(good)


def test_a_file_with_hundreds_of_streams_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        streams: list[Any] = [output.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(300)]
        for stream in streams:
            block = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            block.sample_rate = 8000
            output.mux(stream.encode(block))
    with pytest.raises(MediaError, match="the file has 300 streams, more than 256"):
        probe(path, ["audio"])


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\n"
PLAYLISTS = {
    "hls.mp4": HLS + "{name}\n#EXT-X-ENDLIST\n",
    "hls absolute.mp4": HLS + "{path}\n#EXT-X-ENDLIST\n",
    "hls data.mp4": HLS + "data:video/mp2t;base64,R0AREABC\n#EXT-X-ENDLIST\n",
    "hls subfile.mp4": HLS + "subfile,,start,0,end,0,,:{path}\n#EXT-X-ENDLIST\n",
    "hls.m3u8.ts": "#EXTM3U\n#EXTINF:1.2,\nhttp://127.0.0.1:9/{name}\n#EXT-X-ENDLIST\n",
    "concat.mp4": "ffconcat version 1.0\nfile '{name}'\n",
    "dash.mp4": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'>"
    "<Period><AdaptationSet><Representation id='1' mimeType='video/mp2t'><BaseURL>{name}</BaseURL>"
    "</Representation></AdaptationSet></Period></MPD>",
    "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_file_that_names_others_reads_none_of_them(tmp_path: Path, name: str) -> None:
    other = write_video(tmp_path / "other.ts", [grey(99)] * 30, tone(440, 1.2))
    assert probe(other).width == 64
    path = tmp_path / name
    path.write_text(PLAYLISTS[name].format(name=other.name, path=other))
    with pytest.raises(MediaError, match=r"FFmpeg cannot open it: Invalid"):
        probe(path)


def test_a_name_is_no_pattern_of_names(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with av.open(str(tmp_path / f"a{number:03d}.png"), "w", format="image2") as output:
            stream: Any = output.add_stream("png", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
            output.mux(stream.encode(av.VideoFrame.from_ndarray(grey(99), format="rgb24")))
            output.mux(stream.encode(None))
    assert len(list(tmp_path.glob("*.png"))) == 3
    (tmp_path / "list.csv").write_text("path\na%03d.png\na*.png\na001.png\n")
    listing = list_corpus(tmp_path / "list.csv")
    with pytest.raises(MediaError, match="the file does not exist"):
        probe(tmp_path / listing.sources[0].path, ["video"])
    (tmp_path / "a%03d.png").write_bytes((tmp_path / "a001.png").read_bytes())
    with av.open(str(tmp_path / "a%03d.png")) as container:
        assert "image2" in container.format.name  # FFmpeg alone would take it for all three.
    with pytest.raises(MediaError, match="FFmpeg cannot open it"):
        probe(tmp_path / "a%03d.png", ["video"])


IDX = "# VobSub index file, v7 (do not modify this line!)\nsize: 720x480\nid: en, index: 0\n"
IDX += "timestamp: 00:00:00:000, filepos: 000000000\n"


def test_an_index_of_subtitles_does_not_have_its_other_half_read(tmp_path: Path) -> None:
    other = write_video(tmp_path / "other.mpg", [grey(99)] * 30, None, video_codec="mpeg2video")
    other.rename(tmp_path / "a.sub")
    path = tmp_path / "a.mp4"
    path.write_text(IDX)
    with av.open(str(path)) as container:
        assert container.format.name == "vobsub"  # FFmpeg alone takes it, and opens a.sub.
    with pytest.raises(MediaError, match=r"FFmpeg cannot open it: Invalid argument \(it is a text\)"):
        probe(path)


def test_formats_that_open_other_files_by_themselves_are_not_opened() -> None:
    opened = set(_formats().split(","))
    assert {"mov", "matroska", "mpegts", "avi"} <= opened
    assert not opened & {"concat", "dash", "hls", "image2", "imf", "mlv", "sdp", "vobsub", "webm_dash_manifest"}


def replace_boxes(content: bytes, name: bytes, new: bytes) -> bytes:
    """The boxes of an MP4 with another content for each called `name`, and sizes that fit."""
    made, at = b"", 0
    while at < len(content):
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        body = content[at + 8 : at + size]
        if kind == name:
            body = new
        elif kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
            body = replace_boxes(body, name, new)
        made += struct.pack(">I4s", 8 + len(body), kind) + body
        at += size
    return made


def alias(name: str) -> bytes:
    """A data reference of QuickTime to a file in the same folder."""
    path = f"disk:{name}".encode()
    record = bytes(10) + b"\4disk".ljust(28, b"\0") + bytes(12) + bytes([len(name)]) + name.encode().ljust(63, b"\0")
    record += bytes(16) + struct.pack(">HH", 1, 1) + bytes(16)  # One level up from here, one down to there.
    record += struct.pack(">HH", 2, len(path)) + path + bytes(len(path) % 2) + struct.pack(">HH", 0xFFFF, 0)
    return struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record


def level_of(path: Path, **options: str) -> float:
    """How bright the first picture is, as FFmpeg alone decodes it."""
    with av.open(str(path), options=options) as container:
        return float(next(container.decode(video=0)).to_ndarray(format="rgb24").mean())


def uncompressed(path: Path, level: int) -> Path:
    """Every picture has as many bytes as any other, at the same place whatever it shows."""
    return write_video(path, [grey(level)] * 30, None, video_codec="rawvideo", pix_fmt="uyvy422")


def test_a_mov_whose_track_lies_in_another_file_reads_nothing_there(tmp_path: Path) -> None:
    uncompressed(tmp_path / "elsewhere.mov", 200)
    path = uncompressed(tmp_path / "a.mov", 60)
    content = path.read_bytes()
    path.write_bytes(replace_boxes(content, b"dref", struct.pack(">II", 0, 1) + alias("elsewhere.mov")))
    # It would be found: FFmpeg reads it where it is told that it may.
    assert level_of(path, enable_drefs="1") == pytest.approx(200, abs=3)
    assert "picture" in refused(path, modalities=("video",))


def test_an_mp4_that_names_another_file_for_its_track_gives_its_own_bytes(tmp_path: Path) -> None:
    """An entry `url ` with flag 1 means this file; without it, the name that follows."""
    uncompressed(tmp_path / "elsewhere.mov", 200)
    path = uncompressed(tmp_path / "a.mov", 60)
    for url in (b"elsewhere.mov", b"file:elsewhere.mov", b"file://" + bytes(tmp_path / "elsewhere.mov")):
        entry = struct.pack(">I4sI", 13 + len(url), b"url ", 0) + url + b"\0"
        path.write_bytes(replace_boxes(path.read_bytes(), b"dref", struct.pack(">II", 0, 1) + entry))
        assert url in path.read_bytes()
        assert pictures_of(cut(path, 0.0, 1.2, PICTURE)).mean() == pytest.approx(60, abs=4)


@pytest.mark.slow
def test_a_picture_that_needs_more_memory_than_allowed_costs_one_reject(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    write_video(folder / "large.mkv", [grey(99, (8000, 6000))] * 6, tone(440, 1.2), fps=5, video_codec="ffv1")
    for name in ("a.mp4", "b.mp4"):
        write_video(folder / name, [grey(99)] * 30, tone(440, 1.2))
    settings = SMALL.model_copy(
        update={"workers": 1, "clip_memory_mb": 96, "max_reject_share": 1.0, "max_pixels": 10**8}
    )
    assert shard(tmp_path / "corpus", folder, settings).rows == 2
    assert sorted(read_whole_index(tmp_path / "corpus")["source"].to_pylist()) == ["a.mp4", "b.mp4"]
    rejects = pq.read_table(tmp_path / "corpus" / "rejects.parquet").to_pylist()
    assert {(row["source"], row["reason"]) for row in rejects} == {
        ("large.mkv", "needed more than 96 MB of memory (corpus.clip_memory_mb)")
    }
