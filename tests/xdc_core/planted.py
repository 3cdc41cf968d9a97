"""Near-duplicates to find: videos are encoded again with less of the picture, at another bit rate, or 0.2 s later."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SHIFT_S = 0.2
KINDS = ("crop", "bit rate", "shift")


def encode_again(video: Path, out: Path, kind: str) -> None:
    """Write a copy of a video as other people's tools make one: H.264 and AAC at a lower rate.

    crop: without a twentieth of each side, scaled to the old size. bit rate: about a quarter of the bits, nothing else.
    """
    with av.open(str(video)) as source:
        rate = Fraction(source.streams.video[0].average_rate or 25)
        pictures = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    sound, sample_rate = _sound(video)
    out.parent.mkdir(parents=True, exist_ok=True)
    height, width = pictures[0].shape[:2]
    with av.open(str(out), "w") as target:
        seen = target.add_stream("libx264", rate=rate)
        seen.width, seen.height, seen.pix_fmt = width, height, "yuv420p"
        seen.options = {"crf": "32" if kind == "bit rate" else "23"}
        heard = target.add_stream("aac", rate=sample_rate, layout="mono")
        heard.bit_rate = 32_000 if kind == "bit rate" else 64_000
        for number, picture in enumerate(pictures):
            if kind == "crop":
                top, left = height // 20, width // 20
                picture = np.ascontiguousarray(picture[top : height - top, left : width - left])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(width, height, "yuv420p")
            frame.pts, frame.time_base = number, 1 / rate
            target.mux(seen.encode(frame))
        target.mux(seen.encode(None))
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
        fifo = av.AudioFifo()
        fifo.write(frame)
        for part in fifo.read_many(heard.frame_size or 1024, partial=True):
            target.mux(heard.encode(part))
        target.mux(heard.encode(None))


def _sound(video: Path) -> tuple[np.ndarray, int]:
    with av.open(str(video)) as source:
        stream = source.streams.audio[0]
        mono = av.AudioResampler("fltp", "mono", stream.rate)
        parts = [part.to_ndarray()[0] for frame in source.decode(stream) for part in mono.resample(frame)]
        return np.concatenate(parts), stream.rate
