"""What a raw media file says of itself, as far as it holds (PyAV)."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer

from shards.container import choose_streams, open_media, origin_of, packets_of
from shards.errors import MediaError
from shards.settings import BOTH

# Sound without a header that tells its length: FFmpeg guesses it from the bit rate of the beginning, or takes the last
# timestamp, which stands for a third of a second; in MPEG-PS that goes for pictures too.
GUESSED = frozenset({"aac", "ac3", "eac3", "mp3", "mpeg", "mpegts"})
LONG_S = 60.0  # What a header says of a longer duration is checked: a lie of a day would be thousands of clips.


@dataclass(frozen=True)
class Probe:
    """What a file says of itself. Seconds, pixels (as displayed before rotation), Hz; 0 and "" where not asked for."""

    duration_s: float
    width: int
    height: int
    fps: float
    video_codec: str
    audio_codec: str
    sample_rate: int


def _duration_s(container: InputContainer, stream: av.VideoStream | av.AudioStream) -> float | None:
    """As the header has it, or as the packets have it where it does not say; None where it says too much."""
    said_s = 0.0
    name = container.format.name
    if not (name == "mpeg" or (stream.type == "audio" and name in GUESSED)):
        if stream.duration and stream.time_base:
            said_s = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin_of(container)
        elif container.duration:
            said_s = container.duration / av.time_base
    if said_s <= 0:  # Streams such as live WebM say nothing.
        return _end_of(container, stream)
    return said_s if said_s <= LONG_S or _reaches(container, stream, said_s) else None


def _reaches(container: InputContainer, stream: av.VideoStream | av.AudioStream, said_s: float) -> bool:
    """Whether there are packets near the end that a header tells of."""
    near_s = said_s - max(10.0, 0.05 * said_s)
    try:
        container.seek(round((near_s + origin_of(container)) * av.time_base), backward=True)
        return _last_ends(container, stream, near_s)[1] >= near_s  # One alone may just have a damaged timestamp.
    except MemoryError:
        raise
    except (av.FFmpegError, OverflowError):  # There is nowhere to seek to.
        return False


def _end_of(container: InputContainer, stream: av.VideoStream | av.AudioStream) -> float:
    """Where the last packet of a stream ends that can be read, but for one that is far behind all others."""
    last_s, before_s = _last_ends(container, stream, math.inf)
    return before_s if last_s - before_s > LONG_S and before_s > 0 else last_s


def _last_ends(
    container: InputContainer, stream: av.VideoStream | av.AudioStream, enough_s: float
) -> tuple[float, float]:
    """Where the last packet of a stream ends, and the one before it; reads until two end behind `enough_s`."""
    last_s, before_s, origin_s = -math.inf, -math.inf, origin_of(container)
    try:
        for packet in packets_of(container, stream):
            if packet.pts is not None and packet.time_base:
                end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base) - origin_s
                before_s = max(before_s, min(last_s, end_s))
                last_s = max(last_s, end_s)
            if before_s >= enough_s:
                break
    except MemoryError:
        raise
    except av.FFmpegError:
        if last_s == -math.inf:
            raise
    return last_s, before_s


def _fps(video: av.VideoStream) -> float:
    """Frames a second as the header has them; where FFmpeg could only take the clock's rate, its other guess."""
    rate, guess = float(video.average_rate or 0), float(video.base_rate or 0)
    return guess if video.time_base and rate * float(video.time_base) >= 1 and 0 < guess < rate else rate


def probe(path: Path, modalities: Collection[str] = BOTH) -> Probe:
    """Read a file's headers (its packets, where the headers give no duration) as far as `modalities` go.

    The duration is that of the picture; without "video" among `modalities`, that of the sound.

    Raises:
        MediaError: it cannot be opened, lacks one of `modalities`, or has no duration.
    """
    with open_media(path) as container:
        video, audio = choose_streams(container, modalities)
        leading = video or audio
        assert leading is not None
        width, height = (video.codec_context.width, video.codec_context.height) if video else (0, 0)
        try:
            duration_s = _duration_s(container, leading)
            if duration_s is None:  # There is less than the header says: read all of it.
                with open_media(path) as again:
                    same_video, same_audio = choose_streams(again, modalities)
                    same = same_video or same_audio
                    assert same is not None
                    duration_s = _end_of(again, same)
        except MemoryError:
            raise
        except av.FFmpegError as error:
            raise MediaError(f"FFmpeg cannot read its packets: {error.strerror}") from error
        if not duration_s > 0:
            empty = "no picture: the video stream" if video else "no sound: the audio stream"
            raise MediaError(f"{empty} is empty")
        return Probe(
            duration_s=duration_s,
            width=width,
            height=height,
            fps=_fps(video) if video else 0.0,
            video_codec=video.codec_context.name if video else "",
            audio_codec=audio.codec_context.name if audio else "",
            sample_rate=audio.codec_context.sample_rate if audio else 0,
        )
