"""Cutting: what a clip holds is what was to be seen and heard in that span of the file."""

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from shards.errors import MediaError
from shards.media.cut import Clip, cut
from shards.media.decode import decode_sound
from shards.media.limits import too_much
from shards.media.probe import probe
from shards.settings import CorpusSettings
from tests.shards.media_maker import Array, beeps_s, flash_and_beep, flashes_s, pictures_of, plain, tone, write_video

SMALL = CorpusSettings(short_side=48, fps=25)
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40), (128, 128, 128), (255, 255, 255), (0, 0, 0)]


def with_settings(**changes: Any) -> CorpusSettings:
    return CorpusSettings.model_validate(SMALL.model_dump() | changes)


def grey(level: int, size: tuple[int, int] = (64, 48)) -> Array:
    return plain((level, level, level), size)


def level_of(clip: Clip) -> Array:
    """Mean brightness of every frame."""
    return np.asarray(pictures_of(clip).mean((1, 2, 3)))


def loudness_at(sound: Array, hz: float, sample_rate: int) -> float:
    """Amplitude of a sine in a sound."""
    time_s = np.arange(len(sound)) / sample_rate
    return float(2 * abs(np.mean(sound * np.exp(-2j * np.pi * hz * time_s))))


@pytest.fixture(scope="module")
def two_seconds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 s, 96x64, 25 frames a second, frame n has the brightness 4 n + 20; a 440 Hz tone."""
    path = tmp_path_factory.mktemp("media") / "two seconds.mp4"
    return write_video(path, [grey(4 * n + 20, (96, 64)) for n in range(50)], tone(440, 2.0))


def test_a_probe_tells_what_the_headers_say(two_seconds: Path) -> None:
    found = probe(two_seconds)
    assert found.duration_s == pytest.approx(2.0, abs=0.03)
    assert (found.width, found.height, found.fps) == (96, 64, 25.0)
    assert (found.video_codec, found.audio_codec, found.sample_rate) == ("h264", "aac", 48000)


@pytest.mark.parametrize(("fps", "sample_rate"), [(25.0, 16000), (30.0, 8000), (12.5, 44100), (29.97, 16000)])
def test_a_clip_has_the_frames_and_samples_of_its_span(two_seconds: Path, fps: float, sample_rate: int) -> None:
    clip = cut(two_seconds, 0.4, 1.6, with_settings(fps=fps, sample_rate=sample_rate))
    assert clip.frames == round(1.2 * fps)
    assert clip.duration_s == pytest.approx(clip.frames / fps)
    assert clip.samples == round(clip.duration_s * sample_rate)
    assert pictures_of(clip).shape == (clip.frames, clip.height, clip.width, 3)
    assert len(decode_sound(clip.flac)) == clip.samples


def test_a_stored_clip_is_h264_without_b_frames_and_with_a_key_frame_every_gop(two_seconds: Path) -> None:
    clip = cut(two_seconds, 0, 2, with_settings(gop=8))
    with av.open(io.BytesIO(clip.mp4), "r") as container:
        assert [stream.type for stream in container.streams] == ["video"]
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 25)
        packets = [packet for packet in container.demux(stream) if packet.size]
    assert [n for n, packet in enumerate(packets) if packet.is_keyframe] == list(range(0, 50, 8))
    shown_s = [float((packet.pts or 0) * (packet.time_base or 0)) for packet in packets]
    assert shown_s == pytest.approx([n / 25 for n in range(50)])
    with av.open(io.BytesIO(clip.flac), "r") as container:
        sound = container.streams.audio[0]
        assert (container.format.name, sound.codec_context.sample_rate, sound.channels) == ("flac", 16000, 1)


def test_every_frame_is_the_one_of_its_time(two_seconds: Path) -> None:
    for first in (0, 7, 25):
        clip = cut(two_seconds, first / 25, 2.0, SMALL)
        assert level_of(clip) == pytest.approx([4 * n + 20 for n in range(first, 50)], abs=1.5)


def test_a_higher_rate_repeats_frames_and_a_lower_one_leaves_some_out(two_seconds: Path) -> None:
    twice = cut(two_seconds, 0, 2, with_settings(fps=50))
    assert level_of(twice) == pytest.approx([4 * (n // 2) + 20 for n in range(100)], abs=1.5)
    fifth = cut(two_seconds, 0, 2, with_settings(fps=5))
    assert level_of(fifth) == pytest.approx([4 * 5 * n + 20 for n in range(10)], abs=1.5)


@pytest.mark.parametrize(
    ("suffix", "codec", "audio_codec"),
    [
        ("ts", "libx264", "aac"),
        ("mpg", "mpeg2video", "mp2"),
        ("flv", "libx264", "aac"),
        ("mkv", "libx264", "flac"),
        ("avi", "mpeg4", "mp2"),
    ],
)
def test_a_span_far_behind_a_key_frame_is_cut_at_its_frame(
    tmp_path: Path, suffix: str, codec: str, audio_codec: str
) -> None:
    levels = [20 + 8 * abs(n % 50 - 25) for n in range(200)]
    path = tmp_path / f"a.{suffix}"
    write_video(
        path,
        [grey(level) for level in levels],
        tone(440, 8.0),
        video_codec=codec,
        audio_codec=audio_codec,
        options={"g": "60"},
    )
    for first in (30, 70, 110, 170):
        clip = cut(path, first / 25, first / 25 + 1.0, SMALL)
        # Up to two frames more or less: where sound begins first, and where few frames have a timestamp (MPEG-PS).
        assert level_of(clip) == pytest.approx(levels[first : first + 25], abs=20)


def test_a_variable_frame_rate_becomes_a_constant_one(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.3, 0.31, 0.325, 0.8, 1.2, 1.72]
    path = write_video(tmp_path / "a.mkv", [grey(25 * n + 20) for n in range(8)], tone(440, 2.0), times_s=times)
    clip = cut(path, 0.0, 1.72, SMALL)
    shown = [max(n for n, time in enumerate(times) if time <= slot / 25 + 0.005) for slot in range(43)]
    assert level_of(clip) == pytest.approx([25 * n + 20 for n in shown], abs=2)


@pytest.mark.parametrize("colours", ["limited", "full range", "BT.709", "BT.709 full range"])
def test_colours_are_right_however_the_source_codes_them(tmp_path: Path, colours: str) -> None:
    matrix = Colorspace.ITU709 if "709" in colours else Colorspace.ITU601
    span = ColorRange.JPEG if "full" in colours else ColorRange.MPEG
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        video: Any = output.add_stream("libx264", rate=25, options={"crf": "8", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.colorspace, video.codec_context.color_range = int(matrix), int(span)
        audio: Any = output.add_stream("aac", rate=48000, layout="mono")
        for n in range(4 * len(COLOURS)):
            picture = av.VideoFrame.from_ndarray(plain(COLOURS[n // 4]), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=span)
            picture.pts, picture.time_base = n, Fraction(1, 25)
            output.mux(video.encode(picture))
        output.mux(video.encode(None))
        block = av.AudioFrame.from_ndarray(tone(440, 1.2)[None], format="fltp", layout="mono")
        block.sample_rate = 48000
        output.mux(audio.encode(block))
        output.mux(audio.encode(None))
    found = pictures_of(cut(path, 0, 1.12, SMALL))[2::4, 24, 32].astype(int)
    assert np.abs(found - np.array(COLOURS)).max() <= 8


@pytest.mark.parametrize(
    ("size", "short_side", "stored"),
    [
        ((96, 64), 48, (72, 48)),
        ((64, 96), 48, (48, 72)),
        ((97, 51), 48, (92, 48)),
        ((51, 97), 49, (48, 94)),
        ((16, 16), 32, (32, 32)),
        ((1, 1), 16, (16, 16)),
    ],
)
def test_sizes_become_even_with_the_wanted_shorter_side(
    tmp_path: Path, size: tuple[int, int], short_side: int, stored: tuple[int, int]
) -> None:
    path = write_video(tmp_path / "a.mkv", [grey(99, size)] * 30, tone(440, 1.2), pix_fmt="yuv444p")
    clip = cut(path, 0, 1.2, with_settings(short_side=short_side))
    assert (clip.width, clip.height) == stored
    assert pictures_of(clip).shape[1:3] == stored[::-1]


def test_pixels_that_are_not_square_become_square(tmp_path: Path) -> None:
    wide = write_video(tmp_path / "a.mp4", [grey(99)] * 30, tone(440, 1.2), pixel_aspect=Fraction(3, 2))
    clip = cut(wide, 0, 1.2, SMALL)
    assert (clip.width, clip.height) == (96, 48)
    tall = write_video(tmp_path / "b.mp4", [grey(99)] * 30, tone(440, 1.2), pixel_aspect=Fraction(3, 8))
    clip = cut(tall, 0, 1.2, SMALL)
    assert (clip.width, clip.height) == (48, 96)


def test_a_picture_that_is_a_line_is_no_use(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [grey(99, (1000, 2))] * 30, tone(440, 1.2))
    with pytest.raises(MediaError, match="the picture is 1000x2: too narrow to be useful"):
        cut(path, 0, 1.2, SMALL)


def set_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write how the picture is to be displayed into the track header: x' = a x + c y, y' = b x + d y."""
    one = 1 << 16
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # The first track is the picture's.
    assert struct.unpack(">9i", content[at : at + 36]) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    content[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


TURNS = {
    "0": ((1, 0, 0, 1), "rgbw"),
    "90": ((0, 1, -1, 0), "brwg"),
    "180": ((-1, 0, 0, -1), "wbgr"),
    "270": ((0, -1, 1, 0), "gwrb"),
    "mirrored left to right": ((-1, 0, 0, 1), "grwb"),
    "mirrored top to bottom": ((1, 0, 0, -1), "bwrg"),
    "rows for columns": ((0, 1, 1, 0), "rbgw"),
    "rows for columns, the other way": ((0, -1, -1, 0), "wgbr"),
}


@pytest.mark.parametrize("how", TURNS)
def test_a_picture_is_turned_upright_and_as_it_is_to_be_seen(tmp_path: Path, how: str) -> None:
    """As cameras and telephones store it: turned, and mirrored by those that look at their owner."""
    matrix, corners = TURNS[how]
    picture = np.zeros((64, 96, 3), np.uint8)
    names = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "w": (255, 255, 255)}
    for corner, (y, x) in zip("rgbw", ((0, 0), (0, 48), (32, 0), (32, 48)), strict=True):
        picture[y : y + 32, x : x + 48] = names[corner]
    path = write_video(tmp_path / "a.mp4", [picture] * 30, tone(440, 1.2))
    set_matrix(path, *matrix)
    clip = cut(path, 0, 1.2, SMALL)
    assert (clip.width, clip.height) == ((72, 48) if matrix[0] else (48, 72))
    shown = pictures_of(clip)[10].astype(int)
    height, width = clip.height, clip.width
    for corner, (y, x) in zip(corners, ((1, 1), (1, 3), (3, 1), (3, 3)), strict=True):
        assert np.abs(shown[height * y // 4, width * x // 4] - names[corner]).max() <= 8


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.mp4", {}),
        ("with b-frames.mp4", {"options": {"bf": "3", "g": "250"}}),
        ("44 kHz.mkv", {"sample_rate": 44100}),
        ("a.ts", {}),
        ("opus.webm", {"video_codec": "libvpx", "audio_codec": "libopus"}),
        ("pcm.avi", {"video_codec": "mjpeg", "pix_fmt": "yuvj420p", "audio_codec": "pcm_s16le"}),
        ("a.mov", {"audio_codec": "pcm_s16le"}),
        ("a.flv", {}),
        ("mp3.avi", {"video_codec": "mpeg4", "audio_codec": "libmp3lame"}),
        ("a.wmv", {"video_codec": "wmv2", "audio_codec": "libmp3lame"}),
        ("begins at 10 s.mkv", {"picture_start_s": 10, "sound_start_s": 10}),
        ("begins at 10 s.ts", {"picture_start_s": 10, "sound_start_s": 10}),
        ("begins at 10 s.mp4", {"picture_start_s": 10, "sound_start_s": 10}),
    ],
)
def test_picture_and_sound_stay_together(tmp_path: Path, name: str, how: dict[str, Any]) -> None:
    path = flash_and_beep(tmp_path / name, 4.0, [0.52, 2.0, 3.0], **how)
    settings = with_settings(fps=50)
    for start_s, expected_s in ((0.0, [0.52, 2.0, 3.0]), (1.2, [0.8, 1.8]), (2.72, [0.28])):
        clip = cut(path, start_s, 3.92, settings)
        seen, heard = flashes_s(clip, 50), beeps_s(clip, 16000)
        assert len(seen) == len(heard) == len(expected_s)
        assert np.abs(np.array(seen) - heard).max() <= 0.02
        # Where a stream begins a frame before the other, all is shifted by as much.
        assert np.abs(np.array(heard) - expected_s).max() <= 0.03


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "ts"])
@pytest.mark.parametrize(("picture_s", "sound_s"), [(0.6, 0.0), (0.0, 0.6)])
def test_streams_that_begin_at_different_times_keep_their_distance(
    tmp_path: Path, suffix: str, picture_s: float, sound_s: float
) -> None:
    path = flash_and_beep(
        tmp_path / f"a.{suffix}", 3.0, [0.2, 1.2, 2.2], picture_start_s=picture_s, sound_start_s=sound_s
    )
    assert probe(path).duration_s == pytest.approx(3.0 + picture_s, abs=0.65 if suffix == "mkv" else 0.05)
    for start_s in (0.0, 0.4, 1.0):
        clip = cut(path, start_s, 3.0, with_settings(fps=50))
        for found, offset_s in ((flashes_s(clip, 50), picture_s), (beeps_s(clip, 16000), sound_s)):
            expected_s = [at + offset_s - start_s for at in (0.2, 1.2, 2.2) if start_s <= at + offset_s < 2.9]
            assert found == pytest.approx(expected_s, abs=0.045 if suffix == "ts" else 0.02)


def test_a_picture_that_begins_late_is_used_to_its_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [grey(50)] * 25 + [grey(200)] * 25, tone(440, 3.0), picture_start_s=1.0)
    found = probe(path)
    assert found.duration_s == pytest.approx(3.0, abs=0.03)
    levels = level_of(cut(path, 0.0, found.duration_s, SMALL))
    # Its first picture stands for what is missing before it.
    assert levels == pytest.approx([50] * 50 + [200] * 25, abs=2)


def test_stereo_at_44_khz_becomes_mono_at_16_khz(tmp_path: Path) -> None:
    both = np.stack([tone(500, 1.6, 44100, 0.5), tone(1500, 1.6, 44100, 0.3)])
    path = write_video(tmp_path / "a.mkv", [grey(9)] * 40, both, sample_rate=44100, audio_codec="pcm_s16le")
    sound = decode_sound(cut(path, 0.2, 1.2, SMALL).flac)
    assert sound.dtype == np.float32
    assert sound.shape == (16000,)
    assert loudness_at(sound, 500, 16000) == pytest.approx(0.25, abs=0.01)
    assert loudness_at(sound, 1500, 16000) == pytest.approx(0.15, abs=0.01)


def test_the_sound_begins_at_the_exact_sample(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [grey(9)] * 40, tone(400, 1.6, 16000), sample_rate=16000, audio_codec="flac")
    sound = decode_sound(cut(path, 0.3, 1.3, SMALL).flac)
    assert np.abs(sound - tone(400, 1.6, 16000)[4800:20800]).max() < 1e-3


def test_sound_shorter_than_the_picture_is_padded_with_silence(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [grey(9)] * 50, tone(440, 1.2), audio_codec="pcm_s16le")
    clip = cut(path, 0, 2, SMALL)
    assert (clip.frames, clip.samples) == (50, 32000)
    sound = decode_sound(clip.flac)
    assert np.abs(sound[:19000]).max() > 0.4
    assert not sound[19400:].any()


def test_sound_longer_than_the_picture_is_cut_off(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [grey(9)] * 30, tone(440, 3.0), audio_codec="pcm_s16le")
    clip = cut(path, 0, probe(path).duration_s, SMALL)
    assert (clip.frames, clip.samples) == (30, 19200)


def test_a_pause_in_the_sound_stays_a_pause(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [grey(9)] * 50, tone(440, 2.0), audio_codec="pcm_s16le", pause_s=(0.5, 1.25))
    sound = np.abs(decode_sound(cut(path, 0, 2, SMALL).flac))
    assert not sound[8100:19900].any()
    for loud in (sound[:7900], sound[20100:]):
        assert loud.reshape(-1, 100).max(1).min() > 0.4


def test_a_high_pass_removes_drift_and_keeps_a_tone(tmp_path: Path) -> None:
    both = tone(10, 2.0, loudness=0.4) + tone(1000, 2.0, loudness=0.3)
    path = write_video(tmp_path / "a.mkv", [grey(9)] * 50, both, audio_codec="pcm_s16le")
    as_it_is = decode_sound(cut(path, 0, 2, SMALL).flac)
    filtered = decode_sound(cut(path, 0, 2, with_settings(high_pass_hz=80.0)).flac)
    assert loudness_at(as_it_is, 10, 16000) == pytest.approx(0.4, abs=0.02)
    assert loudness_at(filtered, 10, 16000) < 0.02
    for sound in (as_it_is, filtered):
        assert loudness_at(sound, 1000, 16000) == pytest.approx(0.3, abs=0.01)


def test_the_same_span_gives_the_same_bytes(two_seconds: Path) -> None:
    once, again = (cut(two_seconds, 0.5, 1.7, SMALL) for _ in range(2))
    assert once == again
    assert cut(two_seconds, 0.54, 1.74, SMALL) != once


def test_a_file_without_sound_is_no_use(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [grey(9)] * 30, None)
    for use in (lambda: probe(path), lambda: cut(path, 0, 1, SMALL)):
        with pytest.raises(MediaError, match=r"^no sound: the file has no audio stream$"):
            use()


@pytest.mark.parametrize(("suffix", "codec"), [("m4a", "aac"), ("wav", "pcm_s16le"), ("mp4", "aac")])
def test_a_file_without_a_picture_is_no_use(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write_video(tmp_path / f"a.{suffix}", [], tone(440, 1.2), audio_codec=codec)
    with pytest.raises(MediaError, match=r"^no picture: the file has no video stream$"):
        probe(path)


def test_the_cover_of_a_piece_of_music_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    with av.open(str(path), "w") as output:
        audio: Any = output.add_stream("libmp3lame", rate=48000, layout="mono")
        cover: Any = output.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        output.mux(cover.encode(av.VideoFrame.from_ndarray(grey(99), format="rgb24")) + cover.encode(None))
        block = av.AudioFrame.from_ndarray(tone(440, 1.2)[None], format="fltp", layout="mono")
        block.sample_rate = 48000
        output.mux(audio.encode(block) + audio.encode(None))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(MediaError, match=r"^no picture: the file has no video stream$"):
        probe(path)


def test_digital_silence_is_rejected_unless_it_is_wanted(tmp_path: Path) -> None:
    silence = np.zeros(57600, np.float32)
    path = write_video(tmp_path / "a.mkv", [grey(9)] * 30, silence, audio_codec="pcm_s16le")
    with pytest.raises(MediaError, match="the sound is digital silence"):
        cut(path, 0, 1.2, SMALL)
    clip = cut(path, 0, 1.2, with_settings(silence="keep"))
    assert not decode_sound(clip.flac).any()
    assert clip.samples == 19200


def test_what_is_no_video_is_rejected_with_a_reason(tmp_path: Path, two_seconds: Path) -> None:
    content = {
        "empty.mp4": b"",
        "text.mp4": b"This is a text, whatever its name says.\n" * 50,
        "cut off.mp4": two_seconds.read_bytes()[:3000],
        "page.webm": b"<!DOCTYPE html><html><body>404</body></html>",
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.mp4").mkdir()
    reasons = {}
    for name in (*content, "folder.mp4", "nothing.mp4"):
        with pytest.raises(MediaError) as caught:
            probe(tmp_path / name)
        reasons[name] = str(caught.value)
    invalid = "FFmpeg cannot open it: Invalid data found when processing input"
    whole = two_seconds.read_bytes()
    mdat = whole.index(b"mdat") - 4
    mdat_end = mdat + int.from_bytes(whole[mdat : mdat + 4], "big")
    assert reasons == {
        "empty.mp4": "the file is empty",
        "text.mp4": f"{invalid} (it is a text)",
        "cut off.mp4": f"{invalid} (its box mdat should end at byte {mdat_end}, but the file has 3000: "
        "a copy that was broken off)",
        "page.webm": f"{invalid} (it is a web page)",
        "folder.mp4": "not a regular file",
        "nothing.mp4": "the file does not exist",
    }


@pytest.mark.parametrize(("start_s", "seconds"), [(1.4, "0.60"), (1.96, "0.04"), (5.0, "0.00")])
def test_a_span_that_reaches_behind_the_end_is_rejected_where_too_little_is_left(
    two_seconds: Path, start_s: float, seconds: str
) -> None:
    with pytest.raises(MediaError, match=f"only {seconds} s of picture decoded from {start_s:.2f} s on"):
        cut(two_seconds, start_s, start_s + 2.0, SMALL)


def test_a_span_that_reaches_behind_the_end_gives_what_is_there(two_seconds: Path) -> None:
    clip = cut(two_seconds, 0.8, 9.0, SMALL)
    assert (clip.frames, clip.duration_s, clip.samples) == (30, 1.2, 19200)


def test_a_span_without_any_sound_is_rejected(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [grey(9)] * 100, tone(440, 1.0), audio_codec="pcm_s16le")
    with pytest.raises(MediaError, match=r"no sound between 2\.00 s and 4\.00 s"):
        cut(path, 2.0, 4.0, SMALL)


def test_an_absurdly_large_picture_is_rejected_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    write_video(path, [grey(9)] * 3, tone(440, 0.2), video_codec="rawvideo", audio_codec="pcm_s16le")
    content = path.read_bytes()
    at = content.index(b"strf") + 12  # BITMAPINFOHEADER: width and height follow its own size.
    assert struct.unpack("<ii", content[at : at + 8]) == (64, 48)
    path.write_bytes(content[:at] + struct.pack("<ii", 9000, 9000) + content[at + 8 :])
    found = probe(path)
    reason = "the picture is 9000x9000: larger than max_pixels (35389440)"
    assert too_much(found.width, found.height, found.fps, found.duration_s, SMALL) == reason


def test_tags_in_an_old_encoding_are_no_reason_to_reject(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    write_video(
        path,
        [grey(9)] * 30,
        tone(440, 1.2),
        video_codec="mpeg4",
        audio_codec="pcm_s16le",
        metadata={"title": "Cafe du Nord"},
    )
    content = path.read_bytes()
    assert content.count(b"Cafe") == 1
    path.write_bytes(content.replace(b"Cafe", "Café".encode("latin-1")))
    assert probe(path).width == 64
    assert cut(path, 0, 1.2, SMALL).frames == 30


def test_a_colon_in_a_name_is_not_taken_for_a_protocol(
    two_seconds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "12:30.mp4").write_bytes(two_seconds.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert probe(Path("12:30.mp4")) == probe(two_seconds)


def test_a_playlist_under_the_name_of_a_video_reaches_nothing(tmp_path: Path) -> None:
    for name, text in {
        "a.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        "b.mp4": "ffconcat version 1.0\nfile http://127.0.0.1:9/x.ts\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(MediaError, match=r"FFmpeg cannot open it|no picture"):
            probe(tmp_path / name)
