"""Shot boundaries of a video: hard cuts, found in small pictures.

A boundary is where the picture changes at once, much more than around it, and stays changed: as in PySceneDetect's
adaptive detector (the ratio to the neighbours' changes) with its content value, but of luma and the two colour
differences instead of hue, saturation and value. Flashes of up to two pictures, pans, and fades and dissolves of more
than a few pictures are no boundaries.
"""

from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from shards.errors import MediaError
from shards.media.container import decode_from
from shards.media.limits import allowed_frames
from shards.media.source_file import check_readable
from shards.settings import CorpusSettings

SIDE = 32  # Pixels of both sides of a small picture: its noise is small, and a pan changes it slowly.
LEAST_CHANGE = 15.0  # Of a boundary: levels (0 to 255), the sum over the planes of the mean absolute change.
RATIO = 3.0  # Of a boundary's change to the mean of the changes beside it.
AROUND = 2  # Changes on either side that are compared with a boundary's.
STAYS = 3  # Pictures before, and from a boundary on, that all differ from each other across it.
LEAD_S = 1.0  # Of the video on either side of a window that is decoded, too.


def small_picture(frame: av.VideoFrame, scaler: VideoReformatter) -> np.ndarray:
    """Return a frame as int16 [3, SIDE, SIDE]: luma and two colour differences, each 0 to 255."""
    small = scaler.reformat(frame, SIDE, SIDE, format="yuv444p", interpolation="AREA", threads=1)
    return small.to_ndarray().astype(np.int16)


def change(one: np.ndarray, other: np.ndarray) -> float:
    """Return the sum over the planes of the mean absolute difference of two small pictures, in levels."""
    return float(np.abs(one - other).sum(dtype=np.int64)) / SIDE**2


class BoundaryFinder:
    """Find the boundaries in pictures that are added in the order of their times. A repeated picture is not added.

    boundaries_s: the times of the first pictures after a boundary found so far; complete after `finish`.
    """

    def __init__(self) -> None:
        self.boundaries_s: list[float] = []
        self._times: list[float] = []
        self._pictures: list[np.ndarray] = []
        self._changes: list[float] = []  # Of each of these pictures to the one before it.
        self._next = 1  # The place of the next picture to decide about.
        self._since = STAYS  # Pictures since the last boundary.

    def add(self, time_s: float, picture: np.ndarray) -> None:
        """Add a small picture that is shown from `time_s` on."""
        self._changes.append(change(self._pictures[-1], picture) if self._pictures else 0.0)
        self._times.append(time_s)
        self._pictures.append(picture)
        if self._next + max(STAYS - 1, AROUND) < len(self._pictures):
            self._decide()
        if self._next > 2 * STAYS:
            for column in (self._times, self._pictures, self._changes):
                del column[0]
            self._next -= 1

    def finish(self) -> list[float]:
        """Decide about the last pictures, and return all boundaries."""
        while self._next < len(self._pictures):
            self._decide()
        return self.boundaries_s

    def _decide(self) -> None:
        here, self._next = self._next, self._next + 1
        self._since += 1
        if self._since >= STAYS and self._is_boundary(here):
            self.boundaries_s.append(self._times[here])
            self._since = 0

    def _is_boundary(self, here: int) -> bool:
        least = self._changes[here]
        if least < LEAST_CHANGE:
            return False
        first = max(1, here - AROUND)
        around = [*self._changes[first:here], *self._changes[here + 1 : here + 1 + AROUND]]
        if around and least < RATIO * sum(around) / len(around):
            return False
        before, after = self._pictures[max(0, here - STAYS) : here], self._pictures[here : here + STAYS]
        return all(change(one, other) >= LEAST_CHANGE for one in before for other in after)


def boundaries_between(path: Path, start_s: float, end_s: float, settings: CorpusSettings) -> list[float]:
    """Return the times, in seconds of the file, of the boundaries in [start_s, end_s): whole milliseconds.

    Raises:
        MediaError: nothing decodes there, or a picture is larger, or the rate higher, than the settings allow.
    """
    finder, scaler, until_s = BoundaryFinder(), VideoReformatter(), end_s + LEAD_S
    try:
        with decode_from(path, "video", max(0.0, start_s - LEAD_S), until_s) as decoding:
            for time_s, frame in allowed_frames(decoding.frames, settings):
                if time_s >= until_s:
                    break
                if time_s >= start_s - LEAD_S:
                    finder.add(time_s, small_picture(frame, scaler))
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise MediaError(f"FFmpeg cannot scale its pictures: {error.strerror}") from error
    return [round(at_s, 3) for at_s in finder.finish() if start_s <= at_s < end_s]


def boundaries_of(root: str, name: str, start_s: float, end_s: float, settings: CorpusSettings) -> list[float]:
    """Return the boundaries of a window of one file, in a child process of the sandbox.

    What does not decode has none: a clip there is rejected when it is cut.

    Raises:
        SourceError: the file, which was probed before, is gone or cannot be read.
    """
    path = Path(root) / name
    try:
        return boundaries_between(path, start_s, end_s, settings)
    except MediaError:
        check_readable(path)
        return []
