"""Pictures and sounds of every make: what becomes of each is defined, and stands in docs/media.md."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from shards.media.cut import cut
from shards.media.decode import decode_sound
from shards.media.probe import probe
from shards.settings import CorpusSettings
from tests.shards.media_maker import Array, pictures_of, plain, tone, write_video

SMALL = CorpusSettings(short_side=48, fps=25)
ORANGE = (200, 120, 40)


def loudness_at(sound: Array, hz: float, sample_rate: int = 16000) -> float:
    """Amplitude of a sine in a sound."""
    time_s = np.arange(len(sound)) / sample_rate
    return float(2 * abs(np.mean(sound * np.exp(-2j * np.pi * hz * time_s))))


@pytest.mark.parametrize("channels", range(1, 9))
def test_every_layout_from_mono_to_7_1_becomes_mono_without_clipping(tmp_path: Path, channels: int) -> None:
    each = np.stack([tone(400, 1.2, loudness=0.9)] * channels)
    path = write_video(tmp_path / "a.mkv", [plain(ORANGE)] * 30, each, audio_codec="pcm_s16le")
    sound = decode_sound(cut(path, 0, 1.2, SMALL).flac)
    # The channel for low tones is left out, as players do; all others together are as loud as each was.
    assert loudness_at(sound[1600:17600], 400) == pytest.approx(0.9, abs=0.02)
    assert np.abs(sound).max() < 0.95


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000, 192000])
def test_every_sample_rate_keeps_pitch_loudness_and_length(tmp_path: Path, rate: int) -> None:
    path = write_video(
        tmp_path / "a.mkv", [plain(ORANGE)] * 30, tone(1000, 1.2, rate), sample_rate=rate, audio_codec="pcm_s16le"
    )
    clip = cut(path, 0, 1.2, SMALL)
    assert (probe(path).sample_rate, clip.samples) == (rate, 19200)
    sound = decode_sound(clip.flac)
    assert loudness_at(sound[1600:17600], 1000) == pytest.approx(0.5, abs=0.01)
    assert np.abs(sound[18000:19000]).max() > 0.4


@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p10le", "yuv422p", "yuv422p10le", "yuv444p", "yuv444p12le", "bgra", "yuva420p", "yuva444p10le"]
)
def test_every_depth_and_subsampling_and_alpha_gives_the_same_colour(tmp_path: Path, pix_fmt: str) -> None:
    path = write_video(
        tmp_path / "a.mkv",
        [plain(ORANGE)] * 30,
        tone(440, 1.2),
        video_codec="ffv1",
        pix_fmt=pix_fmt,
        audio_codec="flac",
    )
    clip = cut(path, 0, 1.2, SMALL)
    assert clip.frames == 30
    assert np.abs(pictures_of(clip)[15].astype(int) - ORANGE).max() <= 8


def test_what_is_transparent_is_shown_as_if_it_were_not(tmp_path: Path) -> None:
    clear = np.dstack([plain(ORANGE), np.zeros((48, 64), np.uint8)])
    path = write_video(
        tmp_path / "a.mkv", [clear] * 30, tone(440, 1.2), video_codec="ffv1", pix_fmt="bgra", audio_codec="flac"
    )
    assert np.abs(pictures_of(cut(path, 0, 1.2, SMALL))[15].astype(int) - ORANGE).max() <= 8


def test_a_grey_picture_is_grey(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mkv", [plain((90, 90, 90))] * 30, tone(440, 1.2), video_codec="ffv1", pix_fmt="gray"
    )
    assert np.abs(pictures_of(cut(path, 0, 1.2, SMALL))[15].astype(int) - 90).max() <= 4


def mux(path: Path, *pictures: tuple[tuple[int, int, int], bool], sounds: tuple[float, ...]) -> Path:
    """An MP4 with a stream for each picture (its colour, and whether it is a cover) and for each sound (Hz)."""
    with av.open(str(path), "w") as output:
        added: list[tuple[Any, list[av.VideoFrame] | list[av.AudioFrame]]] = []
        for colour, is_cover in pictures:
            stream: Any = output.add_stream("mjpeg" if is_cover else "libx264", rate=25)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = "yuvj420p" if is_cover else "yuv420p"
            if is_cover:
                stream.disposition = av.stream.Disposition.attached_pic
            count = 1 if is_cover else 30
            added.append((stream, [av.VideoFrame.from_ndarray(plain(colour), format="rgb24") for _ in range(count)]))
        for hz in sounds:
            stream = output.add_stream("aac", rate=48000, layout="mono")
            block = av.AudioFrame.from_ndarray(tone(hz, 1.2)[None], format="fltp", layout="mono")
            block.sample_rate = 48000
            added.append((stream, [block]))
        for stream, frames in added:
            for number, frame in enumerate(frames):
                frame.pts = number
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    return path


def test_of_several_pictures_and_sounds_the_first_ones_count(tmp_path: Path) -> None:
    path = mux(tmp_path / "a.mp4", (ORANGE, False), ((0, 0, 255), False), sounds=(500, 1500))
    clip = cut(path, 0, 1.2, SMALL)
    assert np.abs(pictures_of(clip)[15].astype(int) - ORANGE).max() <= 8
    sound = decode_sound(clip.flac)
    assert loudness_at(sound, 500) > 0.3
    assert loudness_at(sound, 1500) < 0.02


def test_a_cover_beside_a_picture_is_passed_over(tmp_path: Path) -> None:
    path = mux(tmp_path / "a.mp4", ((0, 0, 255), True), (ORANGE, False), sounds=(500,))
    with av.open(str(path)) as container:
        covers = [bool(one.disposition & av.stream.Disposition.attached_pic) for one in container.streams.video]
        assert sorted(covers) == [False, True]
    clip = cut(path, 0, 1.2, SMALL)
    assert clip.frames == 30
    assert np.abs(pictures_of(clip)[15].astype(int) - ORANGE).max() <= 8


def test_a_picture_that_stands_still_while_nothing_is_stored_goes_on(tmp_path: Path) -> None:
    """A variable frame rate as of screen recordings: nothing for two seconds."""
    frames = [plain((n, n, n)) for n in (40, 120, 200)]
    path = write_video(tmp_path / "a.mkv", frames, tone(440, 2.6), times_s=[0.0, 0.2, 2.2])
    levels = pictures_of(cut(path, 0, 2.2, SMALL)).mean((1, 2, 3))
    assert len(levels) == 55
    assert levels[:5] == pytest.approx(40, abs=3)
    assert levels[6:] == pytest.approx(120, abs=3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi", "mov"])
def test_a_name_may_have_spaces_and_letters_of_any_script(tmp_path: Path, suffix: str) -> None:
    codecs = ("libvpx", "libopus") if suffix == "webm" else ("mpeg4", "libmp3lame")
    path = tmp_path / f"-dír ú/%d 視頻 🎥 'a' \"b\" & <c>.{suffix}"
    write_video(path, [plain(ORANGE)] * 30, tone(440, 1.2), video_codec=codecs[0], audio_codec=codecs[1])
    assert cut(path, 0, 1.0, SMALL).frames == 25


def test_a_sound_that_changes_its_channels_and_rate_in_the_middle_goes_on(tmp_path: Path) -> None:
    """As in broadcasts, between the film and the advertisements."""
    how: dict[str, Any] = {"audio_codec": "mp2"}
    one = write_video(tmp_path / "one.ts", [plain(ORANGE)] * 30, np.stack([tone(500, 1.2)] * 2), **how)
    later = {"picture_start_s": 1.2, "sound_start_s": 1.2, "sample_rate": 32000}
    two = write_video(tmp_path / "two.ts", [plain(ORANGE)] * 30, tone(1500, 1.2, 32000), **how, **later)
    path = tmp_path / "a.ts"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    sound = decode_sound(cut(path, 0, 2.2, SMALL).flac)
    assert loudness_at(sound[3200:16000], 500) == pytest.approx(0.5, abs=0.05)
    assert loudness_at(sound[22400:32000], 1500) == pytest.approx(0.5, abs=0.05)
