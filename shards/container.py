"""Opening a raw media file, and decoding it from a given time on (PyAV).

Time 0 of a file is its container's start time; picture and sound are both placed on that clock by their
timestamps, so they stay aligned whatever the streams' own offsets are.
"""

import itertools
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
from av.container import InputContainer

from shards.errors import MediaError


def open_media(path: Path) -> InputContainer:
    """Open a local file; nothing that it names elsewhere is read.

    Raises:
        MediaError: there is no such file, it is empty, or FFmpeg does not know it.
    """
    if not path.is_file():
        raise MediaError("the file does not exist" if not path.exists() else "not a regular file")
    if path.stat().st_size == 0:
        raise MediaError("the file is empty")
    try:
        # Absolute: FFmpeg takes what precedes a colon for a protocol. Tags may be in any encoding and are not needed.
        return av.open(str(path.absolute()), options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"FFmpeg cannot open it: {error.strerror}") from error


def choose_streams(
    container: InputContainer, modalities: Collection[str]
) -> tuple[av.VideoStream | None, av.AudioStream | None]:
    """The first picture stream that is no cover art, and the first sound stream; None for what is not asked for.

    Raises:
        MediaError: "no picture" or "no sound" where one of `modalities` is not there, or FFmpeg has no decoder for it.
    """
    pictures = _pictures(container) if "video" in modalities else []
    sounds = container.streams.audio if "audio" in modalities else ()
    if "video" in modalities and not pictures:
        raise MediaError("no picture: the file has no video stream")
    if "audio" in modalities and not sounds:
        raise MediaError("no sound: the file has no audio stream")
    video, audio = next(filter(_decodable, pictures), None), next(filter(_decodable, sounds), None)
    if "video" in modalities and video is None:
        raise MediaError("no picture: FFmpeg has no decoder for its video stream")
    if "audio" in modalities and audio is None:
        raise MediaError("no sound: FFmpeg has no decoder for its audio stream")
    return video, audio


def _pictures(container: InputContainer) -> list[av.VideoStream]:
    cover = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & cover]


def _decodable(stream: object) -> bool:
    return getattr(stream, "codec_context", None) is not None


def origin_of(container: InputContainer) -> float:
    """The timestamp, in seconds, that is time 0 of a file."""
    return (container.start_time or 0) / av.time_base


@dataclass(frozen=True)
class Decoding:
    """A stream that is being decoded. Frames have their timestamps; `origin_s` is that of time 0."""

    stream: Any
    origin_s: float
    frames: Iterator[Any]


@contextmanager
def decode_from(path: Path, kind: Literal["video", "audio"], time_s: float) -> Iterator[Decoding]:
    """Decode the picture or the sound, beginning with a frame at or before `time_s` (else with the first of all).

    Formats without an index (MPEG-TS) take us anywhere, and a decoder needs a key frame to begin with: where what
    comes out first is too late, we begin further back.

    Raises:
        MediaError: see open_media and choose_streams.
        av.FFmpegError: it does not decode; also while the frames are iterated over.
    """
    for back_s in (0.0, 1.0, 10.0, math.inf):
        with open_media(path) as container:
            video, audio = choose_streams(container, (kind,))
            stream: Any = video or audio
            if kind == "video":
                stream.thread_type = "NONE"  # The pool runs one process a core; more threads only contend.
            origin_s = origin_of(container)
            # Where there are pictures, FFmpeg seeks to them: for sound before the first one we must not seek at all.
            leading = next(filter(_decodable, _pictures(container)), stream)
            first_s = float((leading.start_time or 0) * (leading.time_base or 0)) - origin_s
            from_beginning = time_s - back_s <= first_s
            if not from_beginning:
                container.seek(int((time_s - back_s + origin_s) * av.time_base), backward=True)
            frames = _decode(container, stream)
            try:
                first = next(frames, None)
            except av.FFmpegError:
                if from_beginning:
                    raise
                continue
            if from_beginning or (first is not None and first.time is not None and first.time - origin_s <= time_s):
                yield Decoding(stream, origin_s, itertools.chain([] if first is None else [first], frames))
                return


def _decode(container: InputContainer, stream: av.VideoStream | av.AudioStream) -> Iterator[Any]:
    begun, failure = False, None
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            if begun:
                raise
            failure = error  # There may just be no key frame yet.
            continue
        for frame in frames:
            begun = True
            yield frame
    if failure and not begun:
        raise failure
