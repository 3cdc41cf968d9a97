"""Encode pictures as H.264 in MP4, and sound as FLAC."""

import io
import math
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from shards.media.limits import check_bytes

# No B-frames, no look-ahead, no macroblock tree: with them the x264 in PyAV 18 reads uninitialised memory (shown by
# other values of MALLOC_PERTURB_), and for one clip in a thousand the same frames give other bytes.
X264 = {"preset": "veryfast", "bf": "0", "x264-params": "mbtree=0:rc-lookahead=0:weightp=0:scenecut=0"}


def encode_picture(
    frames: Iterator[av.VideoFrame], fps: float, gop: int, crf: int, most_mb: float = math.inf
) -> tuple[bytes, int, tuple[int, int]]:
    """Encode frames of one size as H.264 in MP4: short GOP, no B-frames, one thread (the bytes are repeatable).

    Returns the bytes, the number of frames, and (width, height) in pixels. Without frames these are (b"", 0, (0, 0)).

    Raises:
        MediaError: the result is larger than `most_mb` megabytes.
    """
    rate = Fraction(fps).limit_denominator(1001)
    buffer, count, stream, converter = io.BytesIO(), 0, None, VideoReformatter()
    with av.open(buffer, "w", format="mp4") as output:
        for frame in frames:
            if stream is None:
                stream = output.add_stream("libx264", rate=rate)
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
                stream.codec_context.time_base = 1 / rate
                stream.codec_context.thread_count = 1
                stream.options = {**X264, "crf": str(crf), "g": str(gop)}
            elif (frame.width, frame.height) != (stream.width, stream.height):
                frame = converter.reformat(frame, stream.width, stream.height, interpolation="AREA", threads=1)
            picture = converter.reformat(frame, format="yuv420p", threads=1)
            picture.pts, picture.time_base, picture.pict_type = count, 1 / rate, PictureType.NONE
            output.mux(stream.encode(picture))
            check_bytes(buffer.tell(), most_mb)
            count += 1
        if stream is None:
            return b"", 0, (0, 0)
        output.mux(stream.encode(None))
        size = (stream.width, stream.height)
    return buffer.getvalue(), count, size


def encode_sound(pcm: np.ndarray, sample_rate: int) -> bytes:
    """Encode int16 [samples] as mono FLAC bytes; `sample_rate` in Hz."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as output:
        stream = output.add_stream("flac", rate=sample_rate, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts = sample_rate, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()
