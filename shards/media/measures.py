"""What is measured of a clip while it is cut: motion and shot boundaries of its pictures, the level of its sound."""

import math
from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from shards.media.shots import SIDE, BoundaryFinder, SmallPicture, small_picture

MOTION_S = 0.1  # Between the pictures whose difference is motion: those of a clip nearest to this.
QUIETEST_DB = -120.0  # Of digital silence. The noise of 16 bits alone is at -101.


@dataclass(frozen=True)
class Measures:
    """Measures of a clip; None without the modality.

    motion: the mean absolute change of luma (0 to 255) a second, in pictures of 32 x 32 pixels, 0.1 s apart, without
    the changes at shot boundaries. boundaries_s: the times of the shot boundaries, in seconds from the clip's start.
    level_db: of the mono sound, the root mean square in dB relative to full scale (a full-scale square wave has 0 dB,
    a full-scale sine -3.01).
    """

    motion: float | None = None
    boundaries_s: tuple[float, ...] | None = None
    level_db: float | None = None

    @property
    def shots(self) -> int | None:
        """Return the number of shots: one more than boundaries."""
        return None if self.boundaries_s is None else 1 + len(self.boundaries_s)


UNMEASURED = Measures()


class PictureMeter:
    """Measure the pictures of a clip, added in order, `fps` a second."""

    def __init__(self, fps: float) -> None:
        self._fps, self._step = fps, max(1, round(MOTION_S * fps))
        self._scaler, self._finder = VideoReformatter(), BoundaryFinder()
        self._count = 0
        self._small: SmallPicture | None = None
        self._sampled: SmallPicture | None = None
        self._changes: list[float] = []

    def add(self, picture: av.VideoFrame, repeated: bool) -> None:
        """Add the next picture. repeated: it is the same as the one before."""
        if not repeated or self._small is None:
            self._small = small_picture(picture, self._scaler)
            self._finder.add(self._count / self._fps, self._small)
        if self._count % self._step == 0:
            if self._sampled is not None:
                self._changes.append(float(np.abs(self._small.luma - self._sampled.luma).sum()) / SIDE**2)
            self._sampled = self._small
        self._count += 1

    def finish(self) -> tuple[float, tuple[float, ...]]:
        """Return the motion and the times of the boundaries of all pictures (see Measures)."""
        boundaries_s, lasts_s = tuple(self._finder.boundaries_s), self._step / self._fps
        at_boundaries = {math.ceil(round(at_s * self._fps) / self._step) - 1 for at_s in boundaries_s}
        kept = [value for number, value in enumerate(self._changes) if number not in at_boundaries]
        return (sum(kept) / len(kept) / lasts_s if kept else 0.0), boundaries_s


def level_db(pcm: np.ndarray) -> float:
    """Return the level of int16 [samples] in dB relative to full scale (see Measures); at least QUIETEST_DB."""
    power = float(np.mean(np.square(pcm, dtype=np.float64))) / 32768.0**2 if len(pcm) else 0.0
    return max(QUIETEST_DB, 10 * math.log10(power)) if power > 0 else QUIETEST_DB
