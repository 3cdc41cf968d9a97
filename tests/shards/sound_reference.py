"""What a sound is when nobody looks at times: decoded from its beginning to its end, and how alike two sounds are."""

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from shards.media.decode import ANY_TAGS
from tests.shards.media_maker import Array

SILENT = 1 / 32768  # Stored sounds have 16 bits.


def decoded(path: Path, sample_rate: int) -> Array:
    """The first sound stream of a file that decodes: float [samples], mixed to mono. Damaged packets are left out."""
    parts: list[Array] = []
    with av.open(str(path), **ANY_TAGS) as container:
        stream = next(one for one in container.streams.audio if one.codec_context is not None)
        resampler, make = None, None
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                if not frame.samples:
                    continue
                before, make = make, (frame.format.name, frame.layout.name, frame.sample_rate)
                if make != before:
                    parts += [] if resampler is None else [one.to_ndarray() for one in resampler.resample(None)]
                    resampler = av.AudioResampler(format="s32", layout="mono", rate=sample_rate)
                frame.pts = None
                parts += [one.to_ndarray() for one in resampler.resample(frame)]
        parts += [] if resampler is None else [one.to_ndarray() for one in resampler.resample(None)]
    return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float64) / 2**31


@dataclass(frozen=True)
class Likeness:
    """Of a stored sound and a reference: seconds, shares of samples that are zero, correlation where there are both."""

    seconds: float
    wanted_seconds: float
    zeros: float
    wanted_zeros: float
    correlation: float

    @property
    def same(self) -> bool:
        """As long within 20 ms, as silent within 1 %, and correlated by 0.99."""
        return (
            abs(self.seconds - self.wanted_seconds) <= 0.02
            and abs(self.zeros - self.wanted_zeros) <= 0.01
            and self.correlation >= 0.99
        )


def compare(stored: Array, reference: Array, sample_rate: int) -> Likeness:
    """`stored` and `reference`: float [samples]. Silence is all alike."""
    both = min(len(stored), len(reference))
    a, b = stored[:both].astype(np.float64), reference[:both]
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    quiet = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0)) < 2 * SILENT
    return Likeness(
        len(stored) / sample_rate,
        len(reference) / sample_rate,
        _zeros(stored),
        _zeros(reference),
        1.0 if quiet else float(a @ b) / norms if norms else 0.0,
    )


def _zeros(sound: Array) -> float:
    return float(np.mean(np.abs(sound) < SILENT / 2)) if len(sound) else 1.0


def placed(reference: Array, sample_rate: int, begins_s: float, gaps: tuple[tuple[float, float], ...] = ()) -> Array:
    """A reference as a container places it: silence before `begins_s` (negative: cut off), and gaps (at, seconds)."""
    for at_s, lasts_s in gaps:
        at = round(at_s * sample_rate)
        reference = np.concatenate([reference[:at], np.zeros(round(lasts_s * sample_rate)), reference[at:]])
    shift = round(begins_s * sample_rate)
    return np.concatenate([np.zeros(shift), reference]) if shift >= 0 else reference[-shift:]
