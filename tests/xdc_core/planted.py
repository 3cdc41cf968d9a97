"""Near-duplicates to find: videos are encoded again, with less of the picture or fewer bits, or cut 0.2 s later."""

from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.shards.media_maker import write_video

SHIFT_S = 0.2
KINDS = ("crop", "bit rate", "shift")


def encode_again(video: Path, out: Path, kind: str, own_times: bool = False) -> None:
    """Write a copy as other people's tools make one, in H.264 and AAC.

    crop: without a twentieth of each side, scaled to the old size. bit rate: a much coarser picture. shift: nothing
    more; the clip begins later. own_times: frames keep their times; else they have the whole number of their rate.
    """
    with av.open(str(video)) as source:
        rate = source.streams.video[0].average_rate
        shown = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in source.decode(video=0)]
    frames = [frame for _, frame in shown]
    times_s = [float(time or 0.0) for time, _ in shown] if own_times else None
    with av.open(str(video)) as source:
        stream = source.streams.audio[0]
        mono = av.AudioResampler("fltp", "mono", stream.rate)
        sound = np.concatenate(
            [part.to_ndarray()[0] for frame in source.decode(stream) for part in mono.resample(frame)]
        )
    if kind == "crop":
        height, width = frames[0].shape[:2]
        box = (width // 20, height // 20, width - width // 20, height - height // 20)
        frames = [np.asarray(Image.fromarray(frame).crop(box).resize((width, height))) for frame in frames]
    options = {"crf": "32" if kind == "bit rate" else "23"}
    write_video(out, frames, sound, fps=int(rate or 25), times_s=times_s, sample_rate=stream.rate, options=options)
