"""Decode the bytes of a stored clip into arrays."""

import io

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from shards.errors import MediaError


def decode_frames(mp4: bytes, first: int, count: int) -> np.ndarray:
    """Return frames first .. first + count - 1 of a stored clip: uint8 [count, height, width, 3], RGB.

    Stored clips have a constant frame rate and a short GOP: decoding starts at the key frame before `first`.

    Raises:
        MediaError: the bytes do not decode, or have fewer frames.
        MemoryError: there is not enough memory.
    """
    frames: list[np.ndarray] = []
    # One converter on one thread: a converter per frame, with its own threads, takes ten times as long as decoding.
    converter = VideoReformatter()
    try:
        with av.open(
            io.BytesIO(mp4), "r", format="mp4", options={"threads": "1"}, metadata_errors="replace"
        ) as container:
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
        with av.open(io.BytesIO(flac), "r", format="flac", metadata_errors="replace") as container:
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
