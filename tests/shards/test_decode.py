"""Stored clips back to arrays: any frames by their position, and the sound."""

import io
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from shards.errors import MediaError
from shards.media.decode import decode_frames, decode_sound
from shards.media.encode import encode_picture, encode_sound
from tests.shards.media_maker import Array, tone

FRAMES = 43


def stored(fps: float, gop: int) -> bytes:
    """A moving pattern that differs from frame to frame, stored as the shard stage does."""
    y, x = np.mgrid[:48, :64]

    def picture(n: int) -> Array:
        wave = 128 + 100 * np.sin(x / 5 + n / 2) * np.cos(y / 7 - n / 3)
        return np.stack([wave, np.full_like(wave, 5 * n), 255 - wave], -1).astype(np.uint8)

    frames = (av.VideoFrame.from_ndarray(picture(n), format="rgb24") for n in range(FRAMES))
    mp4, count, size = encode_picture(frames, fps, gop, 18)
    assert (count, size) == (FRAMES, (64, 48))
    return mp4


def all_frames(mp4: bytes) -> Array:
    with av.open(io.BytesIO(mp4), "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize(("fps", "gop"), [(30.0, 8), (25.0, 1), (29.97, 5), (23.976, 12), (12.5, 250)])
def test_frames_by_position_equal_those_of_a_full_decode(fps: float, gop: int) -> None:
    mp4 = stored(fps, gop)
    whole = all_frames(mp4)
    assert len({frame.tobytes() for frame in whole}) == FRAMES
    for first in range(FRAMES):
        count = min(4, FRAMES - first)
        assert np.array_equal(decode_frames(mp4, first, count), whole[first : first + count]), first


def test_frames_are_rgb_bytes_and_come_alone_too() -> None:
    mp4 = stored(30.0, 8)
    assert decode_frames(mp4, 0, FRAMES).shape == (FRAMES, 48, 64, 3)
    one = decode_frames(mp4, FRAMES - 1, 1)
    assert one.shape == (1, 48, 64, 3)
    assert one.dtype == np.uint8
    # Green counts the frames, which red and blue as a first channel would not.
    assert decode_frames(mp4, 30, 1)[0, :, :, 1].mean() == pytest.approx(150, abs=4)


@pytest.mark.parametrize(("first", "count", "there"), [(40, 4, 3), (0, 44, 43), (43, 1, 0), (100, 2, 0)])
def test_more_frames_than_there_are_is_an_error_with_the_numbers(first: int, count: int, there: int) -> None:
    says = f"frames {first} to {first + count - 1} were requested, the stored picture has {there} of them"
    with pytest.raises(MediaError, match=says):
        decode_frames(stored(30.0, 8), first, count)


@pytest.mark.parametrize("damage", ["empty", "noise", "cut off", "sound"])
def test_bytes_that_are_no_picture_are_an_error(damage: str) -> None:
    mp4 = stored(30.0, 8)
    data = {
        "empty": b"",
        "noise": np.random.default_rng(0).bytes(5000),
        "cut off": mp4[: len(mp4) // 2],
        "sound": encode_sound(np.ones(1600, np.int16), 16000),
    }[damage]
    with pytest.raises(MediaError, match="the stored picture does not decode"):
        decode_frames(data, 0, 1)


def test_no_frame_encodes_to_nothing() -> None:
    assert encode_picture(iter(()), 30.0, 8, 18) == (b"", 0, (0, 0))


def test_sound_comes_back_exactly() -> None:
    generator = np.random.default_rng(0)
    for samples, rate in ((16000, 16000), (1, 16000), (4609, 8000), (100_001, 44100)):
        pcm = generator.integers(-32768, 32768, samples).astype(np.int16)
        sound = decode_sound(encode_sound(pcm, rate))
        assert sound.dtype == np.float32
        assert np.array_equal(sound * 32768, pcm.astype(np.float32))


@pytest.mark.parametrize(("samples", "rate"), [(20_000, 8000), (50_000, 16000), (44_100, 44100)])
def test_a_part_of_the_sound_is_that_part_of_the_whole(samples: int, rate: int) -> None:
    generator = np.random.default_rng(samples)
    flac = encode_sound((3000 * generator.standard_normal(samples)).astype(np.int16), rate)
    whole = decode_sound(flac)
    spans = [(0, 1), (0, samples), (samples - 1, 1), (4607, 2), (4608, 4608), (1152, 1)]
    spans += [(first, int(generator.integers(1, samples - first + 1))) for first in generator.integers(0, samples, 40)]
    for first, count in spans:
        assert np.array_equal(decode_sound(flac, int(first), count), whole[first : first + count])
    assert np.array_equal(decode_sound(flac, 777), whole[777:])


@pytest.mark.parametrize(("first", "count", "there"), [(15_999, 2, 1), (0, 16_001, 16_000), (9000, 9000, 7000)])
def test_more_samples_than_there_are_is_an_error_with_the_numbers(first: int, count: int, there: int) -> None:
    says = f"samples {first} to {first + count - 1} were requested, the stored sound has {there} of them"
    with pytest.raises(MediaError, match=says):
        decode_sound(encode_sound(np.ones(16_000, np.int16), 16000), first, count)


def test_samples_behind_the_end_are_an_error() -> None:
    with pytest.raises(MediaError, match=r"the stored sound (is empty|has 0 of them)"):
        decode_sound(encode_sound(np.ones(16_000, np.int16), 16000), 20_000, 5)


def test_a_tone_keeps_its_scale() -> None:
    wave = tone(440, 0.5, 16000, loudness=0.5)
    sound = decode_sound(encode_sound(np.round(wave * 32768).astype(np.int16), 16000))
    assert np.abs(sound - wave).max() < 1e-4


@pytest.mark.parametrize("damage", ["empty", "noise", "picture", "header only"])
def test_bytes_that_are_no_sound_are_an_error(damage: str, tmp_path: Path) -> None:
    flac = encode_sound(np.ones(1600, np.int16), 16000)
    data = {
        "empty": b"",
        "noise": np.random.default_rng(0).bytes(5000),
        "picture": stored(30.0, 8),
        "header only": flac[:42],
    }[damage]
    with pytest.raises(MediaError, match=r"the stored sound (does not decode|is empty)"):
        decode_sound(data)


IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from shards.media.decode import decode_frames

decode_frames(Path(sys.argv[1]).read_bytes(), 0, 1)  # What the libraries need is theirs by now.
data = Path(sys.argv[2]).read_bytes()
for room in range(10, 24, 2):
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (room << 20), resource.RLIM_INFINITY))
    try:
        decode_frames(data, 0, 1)
    except Exception as error:
        print(type(error).__name__, type(error.__cause__).__module__, type(error.__cause__).__name__)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads from /proc how much memory is taken")
def test_too_little_memory_is_no_fault_of_the_clip(tmp_path: Path) -> None:
    (tmp_path / "small.mp4").write_bytes(stored(30.0, 8))
    large = (av.VideoFrame.from_ndarray(np.zeros((2160, 3840, 3), np.uint8), format="rgb24") for _ in range(2))
    (tmp_path / "large.mp4").write_bytes(encode_picture(large, 30.0, 8, 18)[0])
    words = [sys.executable, "-c", IN_LITTLE_MEMORY, str(tmp_path / "small.mp4"), str(tmp_path / "large.mp4")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "MemoryError av.error MemoryError" in said
    assert "MediaError av.error MemoryError" not in said
