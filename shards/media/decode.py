"""Decode the bytes of a stored clip into arrays."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from shards.errors import MediaError

# Of av.open: tags may be in any encoding and are not needed. PyAV 19 reads them all, and has no such option.
ANY_TAGS: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
LENGTH = 4  # Bytes of the length before each NAL unit in the MP4 files that FFmpeg writes (ISO/IEC 14496-15, 5.3.3).
PICTURE_UNITS = (1, 5)  # Types of NAL units with (a slice of) a picture (ITU-T H.264, table 7-1).


@dataclass(frozen=True)
class PictureGroups:
    """Where the groups of pictures of a stored MP4 lie. Each begins with a key frame and decodes without the others.

    header: the decoder's configuration (`avcC`), with which any group decodes. frames: number of each group's first
    frame. offsets: of each group's first byte in the MP4, and of the byte after the last group. sha256: of each group,
    after `group_mark`.
    """

    header: bytes
    frames: tuple[int, ...]
    offsets: tuple[int, ...]
    sha256: tuple[bytes, ...]


def group_mark(header: bytes, frame: int) -> bytes:
    """Return what a group's sha256 covers besides its bytes: all else that decides which frames it decodes to.

    header: as in `PictureGroups`. frame: number of the group's first frame.
    """
    return header + frame.to_bytes(8, "big")


@dataclass(frozen=True)
class StoredFrames:
    """Some consecutive groups of pictures of a stored clip.

    header: as in `PictureGroups`. data: the groups' bytes. first: number of their first frame in the clip.
    """

    header: bytes
    data: bytes
    first: int


def find_groups(mp4: bytes) -> PictureGroups | None:
    """Return where the groups of pictures of a stored MP4 lie. Nothing is decoded.

    None: its groups cannot be decoded one by one, because it was not encoded as this package does it (H.264, one slice
    a frame, frames in the order of their times, packets without gaps between them, MP4 time stamps from 0).
    """
    try:
        with av.open(io.BytesIO(mp4), "r", format="mp4", **ANY_TAGS) as container:
            stream = container.streams.video[0]
            context, tick = stream.codec_context, stream.time_base
            if context is None or context.name != "h264" or stream.average_rate is None or tick is None:
                return None
            header = bytes(context.extradata or b"")
            rate = stream.average_rate * tick
            packets = [
                (packet.pos, packet.pos + packet.size, packet.is_keyframe, packet.pts)
                for packet in container.demux(stream)
                if packet.size and packet.pos is not None
            ]
    except MemoryError as error:  # FFmpeg's own is also an FFmpegError.
        raise MemoryError("to find the groups of a stored picture") from error
    except (av.FFmpegError, IndexError):
        return None
    in_order = all(pts is not None and round(pts * rate) == number for number, (*_, pts) in enumerate(packets))
    without_gaps = all(end == begin for (_, end, *_), (begin, *_) in pairwise(packets))
    keys = [number for number, (_, _, is_key, _) in enumerate(packets) if is_key]
    known = len(header) > 4 and header[0] == 1 and header[4] & 3 == LENGTH - 1
    if not (keys[:1] == [0] and known and in_order and without_gaps):
        return None
    if [(begin, end) for begin, end, *_ in packets] != list(_frame_spans(mp4, packets[0][0], packets[-1][1])):
        return None
    offsets = (*(packets[number][0] for number in keys), packets[-1][1])
    digests = (
        hashlib.sha256(group_mark(header, frame) + mp4[begin:end]).digest()
        for frame, (begin, end) in zip(keys, pairwise(offsets), strict=True)
    )
    return PictureGroups(header, tuple(keys), offsets, tuple(digests))


def _frame_spans(data: bytes, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the first byte of each frame in data[begin:end], and the byte after it: a frame ends with its slice."""
    at = begin
    while at + LENGTH < end:
        kind, at = data[at + LENGTH] & 31, at + LENGTH + int.from_bytes(data[at : at + LENGTH], "big")
        if kind in PICTURE_UNITS:
            yield begin, at
            begin = at


def _decode_groups(stored: StoredFrames) -> Iterator[av.VideoFrame]:
    """Yield the frames of some groups of pictures."""
    codec = av.CodecContext.create("h264", "r")
    assert isinstance(codec, av.VideoCodecContext)
    codec.extradata, codec.thread_type, codec.thread_count = stored.header, "NONE", 1
    for begin, end in _frame_spans(stored.data, 0, len(stored.data)):
        yield from codec.decode(av.Packet(stored.data[begin:end]))
    yield from codec.decode(None)


def _frames_of_groups(stored: StoredFrames, first: int, count: int) -> np.ndarray:
    converter, frames = VideoReformatter(), list[np.ndarray]()
    try:
        for number, frame in enumerate(_decode_groups(stored), start=stored.first):
            if number >= first:
                frames.append(converter.reformat(frame, format="rgb24", threads=1).to_ndarray())
            if len(frames) == count:
                return np.stack(frames)
    except MemoryError as error:
        raise MemoryError("to decode a stored picture") from error
    except av.FFmpegError as error:
        raise MediaError(f"the stored picture does not decode: {error}") from error
    raise MediaError(
        f"the stored picture does not decode: frames {first} to {first + count - 1} were requested, its groups of "
        f"pictures have {len(frames)} of them"
    )


def decode_frames(mp4: bytes | StoredFrames, first: int, count: int) -> np.ndarray:
    """Return frames first .. first + count - 1 of a stored clip: uint8 [count, height, width, 3], RGB.

    Stored clips have a constant frame rate and a short GOP: decoding starts at the key frame before `first`. With the
    groups of pictures that have these frames, instead of the whole MP4, the result is the same.

    Raises:
        MediaError: the bytes do not decode, or have fewer frames.
        MemoryError: there is not enough memory.
    """
    if isinstance(mp4, StoredFrames):
        return _frames_of_groups(mp4, first, count)
    frames: list[np.ndarray] = []
    # One converter on one thread: a converter per frame, with its own threads, takes ten times as long as decoding.
    converter = VideoReformatter()
    try:
        with av.open(io.BytesIO(mp4), "r", format="mp4", options={"threads": "1"}, **ANY_TAGS) as container:
            stream = container.streams.video[0]
            if stream.codec_context is None or stream.average_rate is None or stream.time_base is None:
                raise MediaError("the stored picture does not decode: its header is damaged")
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            rate = stream.average_rate
            if first:
                container.seek(int(first / rate / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream):
                if frame.pts is not None and round(frame.pts * stream.time_base * rate) >= first:
                    frames.append(converter.reformat(frame, format="rgb24", threads=1).to_ndarray())
                if len(frames) == count:
                    break
    except MemoryError as error:  # FFmpeg's own is also an FFmpegError. It is not an error of the clip.
        raise MemoryError("to decode a stored picture") from error
    except (av.FFmpegError, IndexError) as error:
        raise MediaError(f"the stored picture does not decode: {error}") from error
    if len(frames) < count:
        raise MediaError(
            f"frames {first} to {first + count - 1} were requested, the stored picture has {len(frames)} of them"
        )
    return np.stack(frames)


def decode_sound(flac: bytes, first: int = 0, count: int | None = None) -> np.ndarray:
    """Return samples first .. first + count - 1 (None: to the end) of a stored clip: float32 in [-1, 1), mono.

    FLAC's blocks are independent: those outside are not decoded.

    Raises:
        MediaError: the bytes do not decode, or have fewer samples.
        MemoryError: there is not enough memory.
    """
    parts: list[np.ndarray] = []
    begin = 0  # Number of the first sample in `parts`.
    try:
        with av.open(io.BytesIO(flac), "r", format="flac", **ANY_TAGS) as container:
            for packet in container.demux(audio=0):
                start, length = packet.pts, packet.duration  # In samples; the last packet has neither.
                if start is not None and length is not None:
                    if start + length <= first:
                        continue
                    if count is not None and start >= first + count:
                        break
                    if not parts:
                        begin = start
                parts += [frame.to_ndarray().reshape(-1) for frame in packet.decode()]
    except MemoryError as error:
        raise MemoryError("to decode a stored sound") from error
    except (av.FFmpegError, IndexError) as error:
        raise MediaError(f"the stored sound does not decode: {error}") from error
    if not parts:
        raise MediaError("the stored sound is empty")
    sound = np.concatenate(parts)[first - begin :][:count]
    if count is not None and len(sound) < count:
        raise MediaError(
            f"samples {first} to {first + count - 1} were requested, the stored sound has {len(sound)} of them"
        )
    return sound.astype(np.float32) / 32768.0
