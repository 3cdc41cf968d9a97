"""Makes the small videos that these tests cut: what is seen and heard when is known exactly."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from shards.media.cut import Clip
from shards.media.decode import decode_frames, decode_sound

Array = NDArray[Any]


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> Array:
    """One picture, uint8 [height, width, 3], of one colour; `size` is (width, height)."""
    return np.broadcast_to(np.array(colour, np.uint8), (size[1], size[0], 3)).copy()


def tone(hz: float, seconds: float, sample_rate: int = 48000, loudness: float = 0.5) -> Array:
    """A sine, float32 [samples]."""
    time_s = np.arange(round(seconds * sample_rate)) / sample_rate
    return (loudness * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)


def write_video(
    path: Path,
    frames: Sequence[Array],
    sound: Array | None,
    *,
    fps: int = 25,
    times_s: Sequence[float] | None = None,
    sample_rate: int = 48000,
    picture_start_s: float = 0.0,
    sound_start_s: float = 0.0,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
    pix_fmt: str = "yuv420p",
    pixel_aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    pause_s: tuple[float, float] | None = None,
) -> Path:
    """Write a video. `sound` is float32 [samples] or [channels, samples]; no frames or no sound: no such stream.

    `times_s` says when each frame is shown (default: every 1 / fps); the container's kind is that of the suffix.
    `pause_s`: the file holds no sound between these times (for audio codecs without frames of their own).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as output:
        output.metadata.update(metadata or {})
        packets: list[Any] = []
        if len(frames):
            video: Any = output.add_stream(video_codec, rate=fps, options=options or {})
            if video_codec == "libx264" and not options:
                video.options = {"crf": "8", "preset": "ultrafast", "g": "12"}
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = pix_fmt
            video.codec_context.time_base = Fraction(1, 1000 if times_s else fps)
            if pixel_aspect:
                video.codec_context.sample_aspect_ratio = pixel_aspect
        if sound is not None:
            sound = np.atleast_2d(sound)
            layout = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}[len(sound)]
            audio: Any = output.add_stream(audio_codec, rate=sample_rate, layout=layout)
        if len(frames):
            for number, array in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(array, format="rgba" if array.shape[2] == 4 else "rgb24")
                time_s = picture_start_s + (times_s[number] if times_s else number / fps)
                picture.time_base = video.codec_context.time_base
                picture.pts = round(time_s / picture.time_base)
                packets += video.encode(picture)
            packets += video.encode(None)
        if sound is not None:
            first, last = (round(at_s * sample_rate) for at_s in pause_s or (0, 0))
            for begin, part in ((0, sound[:, :first]), (last, sound[:, last:])):
                if part.size:
                    planar = len(part) < 8  # PyAV makes no planar frame of eight channels.
                    samples = np.ascontiguousarray(part if planar else part.T.reshape(1, -1), np.float32)
                    block = av.AudioFrame.from_ndarray(samples, "fltp" if planar else "flt", layout)
                    block.sample_rate, block.time_base = sample_rate, Fraction(1, sample_rate)
                    block.pts = round(sound_start_s * sample_rate) + begin
                    packets += audio.encode(block)
            packets += audio.encode(None)
        packets.sort(key=lambda packet: packet.dts * packet.time_base)
        output.mux(packets)
    return path


def flash_and_beep(
    path: Path, seconds: float, at_s: Sequence[float], sample_rate: int = 48000, fps: int = 25, **how: Any
) -> Path:
    """A black, silent video in which at each time there is a white picture and a 1 kHz beep, 0.12 s long both."""
    times = np.arange(round(seconds * fps)) / fps
    lit = [any(at - 1e-6 <= time < at + 0.12 - 1e-6 for at in at_s) for time in times]
    sound = np.zeros(round(seconds * sample_rate), np.float32)
    for at in at_s:
        first = round(at * sample_rate)
        beep = tone(1000, 0.12, sample_rate)
        sound[first : first + len(beep)] = beep[: len(sound) - first]
    frames = [plain((255, 255, 255) if on else (0, 0, 0)) for on in lit]
    return write_video(path, frames, sound, sample_rate=sample_rate, fps=fps, **how)


def pictures_of(clip: Clip) -> Array:
    """All frames of a cut clip: uint8 [frames, height, width, 3]."""
    return decode_frames(clip.mp4, 0, clip.frames)


def flashes_s(clip: Clip, fps: float) -> list[float]:
    """When the picture turns bright."""
    bright = pictures_of(clip).mean((1, 2, 3)) > 128
    return [n / fps for n in range(len(bright)) if bright[n] and (n == 0 or not bright[n - 1])]


def beeps_s(clip: Clip, sample_rate: int) -> list[float]:
    """When, after at least 0.1 s of quiet, the sound begins."""
    loud = np.flatnonzero(np.abs(decode_sound(clip.flac)) > 0.1)
    if not len(loud):
        return []
    begins = np.concatenate([[True], np.diff(loud) > 0.1 * sample_rate])
    return [float(n) for n in loud[begins] / sample_rate]
