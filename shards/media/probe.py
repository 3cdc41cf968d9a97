"""What a raw media file says of itself, and what its packets say (PyAV)."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer

from shards.errors import MediaError
from shards.media.container import choose_streams, decode_from, open_media, origin_of, packets_of, playable
from shards.media.timing import frame_s, tick_of
from shards.settings import BOTH

# Sound without a header that tells its length: FFmpeg guesses it from the bit rate of the beginning, or takes the last
# timestamp, which stands for a third of a second; in MPEG-PS that goes for pictures too.
GUESSED = frozenset({"aac", "ac3", "eac3", "mp3", "mpeg", "mpegts"})
LONG_S = 60.0  # One packet that lies so far behind all others has a damaged timestamp.
# Bytes. Larger files are not read through: their packets are read from shortly before the end that the header tells of.
READ_THROUGH = 1 << 26
DECODED_S = 3600.0  # Longer sound is not decoded only to see where it ends.


@dataclass(frozen=True)
class Probe:
    """What a file says of itself. Seconds, pixels (as displayed before rotation), Hz; 0 and "" where not asked for.

    `duration_s` is where the last packet of the picture ends (without "video" among the modalities, of the sound), and
    `sound_duration_s` where that of the sound ends. `header_duration_s` is what the header states, 0 where it states
    none. `last_packet_s` is where the last packet ends of all streams of these kinds: among them are streams that are
    not used, and a single packet far behind all others, whose timestamp is damaged.
    """

    duration_s: float = 0.0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    video_codec: str = ""
    audio_codec: str = ""
    sample_rate: int = 0
    header_duration_s: float = 0.0
    sound_duration_s: float = 0.0
    last_packet_s: float = 0.0


def _header_s(container: InputContainer, stream: av.VideoStream | av.AudioStream) -> float:
    """The duration that a header states; 0 where it states none, or where FFmpeg only guesses."""
    name = container.format.name
    if name == "mpeg" or (stream.type == "audio" and name in GUESSED):
        return 0.0
    if stream.duration and stream.time_base:
        stated = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin_of(container)
    else:
        stated = (container.duration or 0) / av.time_base
    return max(0.0, stated)


class _End(NamedTuple):
    """Where the last packet of a stream ends, and the one before it, in seconds; whether packets tell durations."""

    last_s: float = -math.inf
    before_s: float = -math.inf
    has_durations: bool = False

    def by(self, header_s: float) -> float:
        """Where the stream ends. One packet alone that is far behind all others has a damaged timestamp, unless the
        header says the same.
        """
        strays = self.last_s - self.before_s > LONG_S and self.before_s > 0
        return self.before_s if strays and abs(self.last_s - header_s) > LONG_S else self.last_s


def _ends(path: Path, header_s: float, modalities: Collection[str]) -> dict[int, _End]:
    """The ends of all picture and sound streams (as `modalities` go) that have a packet, by the stream's number.

    Raises:
        av.FFmpegError: not one packet can be read.
    """
    if path.stat().st_size > READ_THROUGH and header_s > 0:
        near_s = header_s - max(10.0, 0.05 * header_s)
        found = _ends_behind(path, max(0.0, near_s), modalities)
        if found and max(end.by(header_s) for end in found.values()) >= near_s:
            return found
    return _ends_behind(path, None, modalities)


def _ends_behind(path: Path, from_s: float | None, modalities: Collection[str]) -> dict[int, _End]:
    """The same, of packets from a time on; None: of all."""
    ends: dict[int, _End] = {}
    stated: dict[int, int] = {}  # The last time of a packet. A repeated one is ignored.
    with open_media(path) as container:
        origin_s = origin_of(container)
        streams = [stream for stream in playable(container) if stream.time_base and stream.type in modalities]
        if not streams:
            return {}
        ticks = {stream.index: tick_of(stream) for stream in streams}
        frames_s = {stream.index: frame_s(stream) if stream.type == "video" else 0.0 for stream in streams}
        try:
            if from_s is not None:
                container.seek(round((from_s + origin_s) * av.time_base), backward=True)
            for packet in packets_of(container, streams):
                if packet.is_discard or not packet.size:
                    continue
                tick_s = ticks[packet.stream_index]
                last_s, before_s, has_durations = ends.get(packet.stream_index, _End())
                # AVI has decode times alone, of which FFmpeg makes presentation times that are late.
                stamp = packet.dts if packet.pts is None or container.format.name == "avi" else packet.pts
                if stamp is not None and stamp != stated.get(packet.stream_index):
                    stated[packet.stream_index] = stamp
                    begin_s = stamp * tick_s - origin_s
                else:
                    begin_s = max(last_s, 0.0)  # Raw streams: packets follow each other.
                end_s = begin_s + ((packet.duration or 0) * tick_s or frames_s[packet.stream_index])
                has_durations |= bool(packet.duration)
                ends[packet.stream_index] = _End(max(last_s, end_s), max(before_s, min(last_s, end_s)), has_durations)
        except MemoryError:
            raise
        except (av.FFmpegError, OverflowError):
            if not ends and from_s is None:
                raise
    return ends


def _decoded_s(path: Path) -> float:
    """Where the last sample of a sound ends that decodes; 0 where none does."""
    end_s = 0.0
    try:
        with decode_from(path, "audio", -math.inf) as decoding:
            for time_s, frame in decoding.frames:
                end_s = max(end_s, time_s + frame.samples / frame.sample_rate)
    except MediaError:  # What decodes of it is for `cut` to say.
        pass
    return end_s


def _fps(video: av.VideoStream) -> float:
    """Frames a second as the header has them; where FFmpeg could only take the clock's rate, its other guess."""
    rate, guess = float(video.average_rate or 0), float(video.base_rate or 0)
    return guess if video.time_base and rate * float(video.time_base) >= 1 and 0 < guess < rate else rate


def probe(path: Path, modalities: Collection[str] = BOTH) -> Probe:
    """Read a file's headers and packets, as far as `modalities` go.

    Decodes nothing but sound alone (of at most an hour) whose packets do not tell their durations.

    Raises:
        MediaError: it cannot be opened, lacks one of `modalities`, or its packets cannot be read.
        SourceError: the system cannot read it to its end.
    """
    with open_media(path) as container:
        video, audio = choose_streams(container, modalities)
        leading = video or audio
        assert leading is not None
        width, height = (video.codec_context.width, video.codec_context.height) if video else (0, 0)
        header_s = _header_s(container, leading)
        try:
            ends = _ends(path, header_s, modalities)
        except MemoryError:
            raise
        except av.FFmpegError as error:
            raise MediaError(f"FFmpeg cannot read its packets: {error.strerror}") from error
        end = ends.get(leading.index, _End())
        duration_s = end.by(header_s)
        if video is None and duration_s <= DECODED_S and not end.has_durations:
            duration_s = max(duration_s, _decoded_s(path))
        sound_s = ends.get(audio.index, _End()).by(header_s) if audio else 0.0
        if not duration_s > 0:
            if video:
                raise MediaError("no picture: the video stream is empty", "no_picture")
            raise MediaError("no sound: the audio stream is empty", "no_sound")
        return Probe(
            duration_s=duration_s,
            width=width,
            height=height,
            fps=_fps(video) if video else 0.0,
            video_codec=video.codec_context.name if video else "",
            audio_codec=audio.codec_context.name if audio else "",
            sample_rate=audio.codec_context.sample_rate if audio else 0,
            header_duration_s=header_s,
            sound_duration_s=max(0.0, sound_s),
            last_packet_s=max(end.last_s for end in ends.values()),
        )


def reach_of(path: Path, modalities: Collection[str]) -> float:
    """Where the last packet of these kinds of streams ends, in seconds; 0 where none can be read."""
    try:
        with open_media(path) as container:
            header_s = (container.duration or 0) / av.time_base
        ends = _ends(path, header_s, modalities)
        return max([0.0, *(end.last_s for end in ends.values())])
    except MemoryError:
        raise
    except (av.FFmpegError, MediaError):
        return 0.0
