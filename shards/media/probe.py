"""Probe a raw media file: its headers and its packets (PyAV)."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer

from shards.errors import MediaError
from shards.media.container import choose_streams, decode_from, open_media, origin_of, packets_of, playable
from shards.media.source_file import check_readable, stat_of
from shards.media.timing import frame_s, tick_of
from shards.reject import Kind
from shards.settings import ALL_MODALITIES

# Sound without a duration in its header: FFmpeg estimates it from the first bit rate, or takes the last timestamp,
# which covers a third of a second; in MPEG-PS the same holds for pictures.
GUESSED = frozenset({"aac", "ac3", "eac3", "mp3", "mpeg", "mpegts"})
LONG_S = 60.0  # A single packet that is so long after all others has a damaged timestamp.
# Bytes. The packets of larger files are read only from shortly before the end that the header states.
READ_THROUGH = 1 << 26
DECODED_S = 3600.0  # Longer sound is not decoded just to find its end.


@dataclass(frozen=True)
class Probe:
    """The result for a file: seconds, pixels (as displayed before rotation), Hz; 0 and "" for absent modalities.

    `duration_s` is the end of the last packet of the picture (without "video" among the modalities, of the sound), and
    `sound_duration_s` the end of the last packet of the sound. `header_duration_s` is the duration in the header, 0 if
    there is none. `last_packet_s` is the end of the last packet of all streams of these kinds, including unused
    streams and a single packet long after all others, whose timestamp is damaged. `boundaries_s` are the times of the
    shot boundaries; None if nobody looked for them.
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
    boundaries_s: tuple[float, ...] | None = None


def _header_s(container: InputContainer, stream: av.VideoStream | av.AudioStream) -> float:
    """Return the duration in the header, in seconds; 0 if there is none, or if FFmpeg only estimates it."""
    name = container.format.name
    if name == "mpeg" or (stream.type == "audio" and name in GUESSED):
        return 0.0
    if stream.duration and stream.time_base:
        stated = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin_of(container)
    else:
        stated = (container.duration or 0) / av.time_base
    return max(0.0, stated)


def header_s(root: str, name: str, modalities: Collection[str]) -> float:
    """Return the duration of a file by its header alone, in seconds, in a child process of the sandbox.

    Where the header has none, it is FFmpeg's estimate, or, as for what browsers record, the end of the last packet.

    Raises:
        MediaError: the file cannot be opened, or it has no stream of these kinds.
    """
    with open_media(Path(root) / name) as container:
        streams = [stream for stream in playable(container) if stream.type in modalities]
        if not streams:
            raise MediaError(f"no stream of {' or '.join(modalities)}", "no_picture")
        stated = [_header_s(container, stream) for stream in streams]
        # A clip has both, so the shorter stream decides; packets may say something else.
        header = min((each for each in stated if each), default=(container.duration or 0) / av.time_base)
    return header or probe(Path(root) / name, modalities).duration_s


class _End(NamedTuple):
    """The ends of the last packet of a stream and of the one before it, in seconds; whether packets have durations."""

    last_s: float = -math.inf
    before_s: float = -math.inf
    has_durations: bool = False

    def by(self, header_s: float) -> float:
        """Return the end of the stream in seconds. A single packet long after all others has a damaged timestamp,
        unless the header has the same end.
        """
        strays = self.last_s - self.before_s > LONG_S and self.before_s > 0
        return self.before_s if strays and abs(self.last_s - header_s) > LONG_S else self.last_s


def _ends(path: Path, header_s: float, modalities: Collection[str]) -> dict[int, _End]:
    """Return the ends of all picture and sound streams (of `modalities`) with a packet, by the stream's number.

    Raises:
        av.FFmpegError: no packet can be read.
    """
    if path.stat().st_size > READ_THROUGH and header_s > 0:
        near_s = header_s - max(10.0, 0.05 * header_s)
        ends = _ends_behind(path, max(0.0, near_s), modalities)
        if ends and max(end.by(header_s) for end in ends.values()) >= near_s:
            return ends
    return _ends_behind(path, None, modalities)


def _ends_behind(path: Path, from_s: float | None, modalities: Collection[str]) -> dict[int, _End]:
    """Return the same for packets from a time on; None: for all packets."""
    ends: dict[int, _End] = {}
    stated: dict[int, int] = {}  # The last timestamp of a packet. A repeated one is ignored.
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
                # AVI has only decode times. FFmpeg derives presentation times from them that are late.
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
    """Return the end of the last decodable sample of a sound, in seconds; 0 if nothing decodes."""
    end_s = 0.0
    try:
        with decode_from(path, "audio", -math.inf) as decoding:
            for time_s, frame in decoding.frames:
                end_s = max(end_s, time_s + frame.samples / frame.sample_rate)
    except MediaError:  # `cut` reports what does not decode.
        pass
    return end_s


def _fps(video: av.VideoStream) -> float:
    """Return the header's frames per second; if that is only the clock's rate, FFmpeg's other estimate."""
    rate, guess = float(video.average_rate or 0), float(video.base_rate or 0)
    return guess if video.time_base and rate * float(video.time_base) >= 1 and 0 < guess < rate else rate


def probe(path: Path, modalities: Collection[str] = ALL_MODALITIES) -> Probe:
    """Read a file's headers and packets, for the streams of `modalities`.

    Only one kind of file is decoded: sound alone (of at most an hour) whose packets have no durations.

    Raises:
        MediaError: the file cannot be opened, lacks one of `modalities`, or its packets cannot be read.
        SourceError: the operating system cannot read it to its end.
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
    """Return the end of the last packet of the streams of `modalities`, in seconds; 0 if none can be read."""
    try:
        with open_media(path) as container:
            header_s = (container.duration or 0) / av.time_base
        ends = _ends(path, header_s, modalities)
        return max([0.0, *(end.last_s for end in ends.values())])
    except MemoryError:
        raise
    except (av.FFmpegError, MediaError):
        return 0.0


def probe_file(root: str, name: str, modalities: Collection[str]) -> tuple[Probe, str, Kind | None]:
    """Probe one file, in a child process of the sandbox. An unusable file has the reason in its result.

    It lies here because each child process imports this module, and those of the survey import far more.

    Raises:
        SourceError: the file exists, but cannot be read.
    """
    path = Path(root) / name
    try:
        return probe(path, modalities), "", None
    except MediaError as error:
        if stat_of(path)[0] >= 0:
            check_readable(path)
        return Probe(last_packet_s=reach_of(path, modalities)), str(error), error.kind
