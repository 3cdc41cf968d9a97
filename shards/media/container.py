"""Open a raw media file, and decode it from a given time on (PyAV).

Time 0 of a file is its container's start time. Picture and sound are both placed on that clock by their timestamps, so
they stay aligned whatever the streams' own offsets are.

A packet that does not decode is left out: the previous picture is repeated, and the sound is silent there. A clip with
many such packets is rejected.
"""

import errno
import functools
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
from av.container import InputContainer

from shards.errors import MediaError
from shards.media.decode import ANY_TAGS
from shards.media.diagnose import what_it_is
from shards.media.source_file import check_readable
from shards.media.timing import PictureClock, SoundClock, tick_of
from shards.reject import Kind

REACH = 1 << 26  # Bytes: a failed read is within this many bytes after the last packet that was read.
MAX_STREAMS = 256  # A complete television multiplex has about 100.
BEHIND_S = 10.0  # No container stores packets of one time further apart.
LONG_FRAMES = ("ape", "atrac", "cook", "wma")  # Of up to a quarter of a second and more.
WITHOUT_KEY_PACKETS = frozenset({"adpcm_yamaha", "dfpwm", "g722", "g726", "g726le"})
# A clip with more undecodable packets than both of these is rejected.
BAD_PACKETS = 2
BAD_SHARE = 0.1
# Formats that name other files, or devices. Only one file is read.
_OF_OTHER_FILES = (
    "avisynth concat dash dvdvideo ffmetadata hls image2 imf lavfi mlv rtp rtsp sap sdp tty vapoursynth vobsub "
    "webm_dash_manifest "
    "alsa fbdev kmsgrab v4l2 video4linux2 x11grab xcbgrab pulse jack oss openal"
)


@functools.cache
def _formats() -> str:
    """Return the names of the formats that may be opened, as FFmpeg expects them."""
    names = {name for entry in av.formats_available for name in entry.split(",")}
    return ",".join(sorted(names - set(_OF_OTHER_FILES.split())))


def open_media(path: Path) -> InputContainer:
    """Open a local file. Other files that it names are not read.

    Raises:
        MediaError: there is no such file, it is empty, FFmpeg does not know it, or it has more than 256 streams.
    """
    try:
        if not path.is_file():
            there = path.exists()
            raise MediaError("not a regular file" if there else "the file does not exist", "missing")
        if path.stat().st_size == 0:
            raise MediaError("the file is empty")
    except OSError as error:
        raise MediaError(f"the file cannot be accessed: {error.strerror}", "unreadable") from error
    try:
        # Absolute: FFmpeg takes what precedes a colon for a protocol.
        container = av.open(
            str(path.absolute()),
            options={"protocol_whitelist": "file", "format_whitelist": _formats()},
            **ANY_TAGS,
        )
    except MemoryError:  # Of these is FFmpeg's own, which is an FFmpegError too.
        raise
    except (av.FFmpegError, OSError) as error:
        hint = what_it_is(path)
        kind: Kind = "encrypted" if "encrypted" in hint else "damaged"
        raise MediaError(f"FFmpeg cannot open it: {error.strerror}{hint}", kind) from error
    if len(container.streams) > MAX_STREAMS:
        count = len(container.streams)
        container.close()
        raise MediaError(f"the file has {count} streams, more than {MAX_STREAMS}", "too_large")
    return container


def choose_streams(
    container: InputContainer, modalities: Collection[str]
) -> tuple[av.VideoStream | None, av.AudioStream | None]:
    """Return the first picture stream that is not cover art, and the first sound stream; None for other modalities.

    Raises:
        MediaError: "no picture" or "no sound" if one of `modalities` is missing, or FFmpeg has no decoder for it.
    """
    pictures = _pictures(container) if "video" in modalities else []
    sounds = container.streams.audio if "audio" in modalities else ()
    if "video" in modalities and not pictures:
        raise MediaError("no picture: the file has no video stream", "no_picture")
    if "audio" in modalities and not sounds:
        raise MediaError("no sound: the file has no audio stream", "no_sound")
    video, audio = next(filter(_decodable, pictures), None), next(filter(_decodable, sounds), None)
    if "video" in modalities and video is None:
        hint = what_it_is(Path(container.name))
        raise MediaError(f"no picture: FFmpeg has no decoder for its video stream{hint}", "no_decoder")
    if "audio" in modalities and audio is None:
        hint = what_it_is(Path(container.name))
        raise MediaError(f"no sound: FFmpeg has no decoder for its audio stream{hint}", "no_decoder")
    if video is not None and _tag(video) == "encv":
        raise MediaError("no picture: the video stream is encrypted", "encrypted")
    if audio is not None and _tag(audio) == "enca":
        raise MediaError("no sound: the audio stream is encrypted", "encrypted")
    return video, audio


def _pictures(container: InputContainer) -> list[av.VideoStream]:
    cover = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & cover]


def _tag(stream: av.VideoStream | av.AudioStream) -> str:
    try:
        return stream.codec_context.codec_tag
    except UnicodeDecodeError:  # Any four bytes.
        return ""


def _decodable(stream: object) -> bool:
    return getattr(stream, "codec_context", None) is not None


def origin_of(container: InputContainer) -> float:
    """Return the timestamp, in seconds, that is time 0 of a file."""
    return (container.start_time or 0) / av.time_base


@dataclass
class Damage:
    """Counts of packets of a clip (`seen`) and of undecodable ones (`bad`). `error` is FFmpeg's last error."""

    seen: int = 0
    bad: int = 0
    error: av.FFmpegError | None = None

    def check(self, what: str) -> None:
        """Raise MediaError if too many packets did not decode; `what`: picture or sound."""
        if self.error is not None and self.bad > BAD_PACKETS and self.bad > BAD_SHARE * self.seen:
            raise MediaError(
                f"the {what} is damaged: {self.bad} of {self.seen} packets do not decode ({_words(self.error)})",
                "damaged",
            ) from self.error


@dataclass(frozen=True)
class Decoding:
    """A stream that is being decoded: every frame with its time in seconds from the file's time 0.

    `from_beginning`: decoding began with the stream's first packet. `damage` is updated as frames are taken.
    """

    stream: Any
    frames: Iterator[tuple[float, Any]]
    clock: Any  # A PictureClock or a SoundClock.
    damage: Damage
    from_beginning: bool


@contextmanager
def decode_from(
    path: Path, kind: Literal["video", "audio"], time_s: float, end_s: float = math.inf
) -> Iterator[Decoding]:
    """Decode the picture or the sound, beginning with a frame at or before `time_s` (else with the first frame).

    No packet that is decoded long after `end_s` is read, even if nothing decodes.

    Sound begins a little earlier, because codecs need some packets before their output is right. A seek in a format
    without an index (MPEG-TS) may end anywhere, and a decoder needs a key frame to begin with. If the first frame is
    too late, or has no time, decoding begins again further back.

    Raises:
        MediaError: see open_media and choose_streams, or nothing decodes; also while frames are taken.
        SourceError: the operating system cannot read the file any further; while frames are taken.
    """
    for back_s in (0.0, 1.0, 10.0, math.inf):
        with open_media(path) as container:
            video, audio = choose_streams(container, (kind,))
            stream: Any = video or audio
            if kind == "video":
                stream.thread_type = "NONE"  # The pool runs one process per core; more threads only contend.
            begin_s = time_s - (lead_s(stream.codec_context.name) if kind == "audio" else 0.0)
            origin_s = origin_of(container)
            # In a file with pictures FFmpeg seeks to a picture: earlier sound must be decoded from the start.
            leading = next(filter(_decodable, _pictures(container)), stream)
            first_s = float((leading.start_time or 0) * (leading.time_base or 0)) - origin_s
            from_beginning = begin_s - back_s <= first_s or _only_from_beginning(container, stream)
            if not from_beginning and not _seek(container, begin_s - back_s + origin_s):
                continue
            clock: PictureClock | SoundClock
            if kind == "video":
                clock = PictureClock(stream, container.format.name, origin_s, from_beginning)
            else:
                alone = not _pictures(container)
                if alone and not from_beginning:
                    origin_s += _left_out_s(path)
                clock = SoundClock(stream, container.format.name, origin_s, from_beginning, alone)
            damage = Damage()
            frames = _decode(container, stream, path, clock, damage, (time_s + origin_s, end_s + origin_s))
            try:
                first = next(frames, None)
            except MediaError:
                if from_beginning:
                    raise
                continue
            if from_beginning or (first is not None and first[0] is not None and first[0] <= begin_s):
                timed = ((at_s, frame) for at_s, frame in _before(first, frames) if at_s is not None)
                yield Decoding(stream, timed, clock, damage, from_beginning)
                return


def lead_s(codec: str) -> float:
    """Return the seconds before a span at which the decoding of a sound begins."""
    return 1.0 if codec.startswith(LONG_FRAMES) else 0.1


def _only_from_beginning(container: InputContainer, stream: av.VideoStream | av.AudioStream) -> bool:
    """Return whether a sound that is decoded from the middle is wrong or at a wrong time.

    WAV derives times from byte counts, which is right for PCM only. RealMedia may have no times. Some codecs depend on
    all earlier packets.
    """
    if stream.type != "audio":
        return False
    format_name, codec = container.format.name, stream.codec_context.name
    counted = format_name in ("wav", "w64") and not codec.startswith("pcm_")
    return counted or codec in WITHOUT_KEY_PACKETS or (format_name == "rm" and not _pictures(container))


def _left_out_s(path: Path) -> float:
    """Return the seconds that a decoder leaves out at the beginning of a sound (see SoundClock)."""
    with decode_from(path, "audio", -math.inf) as decoding:
        next(decoding.frames, None)
        return float(decoding.clock.left_out_s)


def _before(first: Any, frames: Iterator[Any]) -> Iterator[Any]:
    return itertools.chain([] if first is None else [first], frames)


def _seek(container: InputContainer, time_s: float) -> bool:
    try:
        container.seek(int(time_s * av.time_base), backward=True)
    except MemoryError:
        raise
    except av.FFmpegError:  # A damaged index, or none.
        return False
    return True


def _decode(
    container: InputContainer,
    stream: av.VideoStream | av.AudioStream,
    path: Path,
    clock: PictureClock | SoundClock,
    damage: Damage,
    span_s: tuple[float, float],
) -> Iterator[tuple[float | None, Any]]:
    """Yield frames with their times in seconds. Undecodable packets before `span_s` do not count as damage."""
    what = "picture" if stream.type == "video" else "sound"
    begun, tick_s = False, tick_of(stream)
    frames: Sequence[Any]
    frame: Any
    for packet in _packets(container, stream, path):
        if packet is not None and packet.dts is not None and packet.dts * tick_s > span_s[1] + BEHIND_S:
            packet = None
        counts = packet is None or packet.pts is None or packet.pts * tick_s >= span_s[0]
        damage.seen += counts
        try:
            if packet is None:
                frames = stream.decode(None)
            else:
                clock.send(packet)
                frames = packet.decode()
        except MemoryError:
            raise
        except av.FFmpegError as error:
            damage.error = error
            damage.bad += begun and counts  # Before the first frame there may be no key frame yet.
            if packet is None:
                break
            clock.lose(packet)
            continue
        for frame in frames:
            if stream.type == "audio" and not (frame.samples and frame.sample_rate):
                continue
            begun = True
            yield clock.time_of(frame), frame
        if packet is None:
            break
    if damage.error and not begun:
        hint = what_it_is(path)
        raise MediaError(f"the {what} does not decode: {_words(damage.error)}{hint}", "damaged") from damage.error


def _words(error: av.FFmpegError) -> str:
    """Return FFmpeg's text for an error; some of its decoders give numbers without a meaning."""
    text = error.strerror or "Error number"
    return "FFmpeg gives no reason" if text.startswith("Error number") else text


def playable(container: InputContainer) -> list[av.VideoStream | av.AudioStream]:
    """Return the picture streams that are not cover art, and the sound streams, including those without a decoder."""
    return [*_pictures(container), *container.streams.audio]


def packets_of(
    container: InputContainer, streams: av.VideoStream | av.AudioStream | list[av.VideoStream | av.AudioStream]
) -> Iterator[av.Packet]:
    """Yield the packets of streams, and an empty one at the end. Raises av.FFmpegError if the file cannot be read."""
    while True:
        try:
            yield from container.demux(streams)
            return
        except IndexError:  # A packet of a stream that begins in the middle of the file: PyAV does not know it.
            continue


def _packets(
    container: InputContainer, stream: av.VideoStream | av.AudioStream, path: Path
) -> Iterator[av.Packet | None]:
    """Yield the packets of one stream to the end of the file; None where it cannot be read further."""
    at = 0
    try:
        for packet in packets_of(container, stream):
            at = max(at, packet.pos or 0)
            yield packet
    except MemoryError:
        raise
    except av.FFmpegError as error:
        if error.errno == errno.EIO:  # FFmpeg gives the same error for files that end too early.
            check_readable(path, at, REACH)
        yield None
