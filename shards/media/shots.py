"""Shot boundaries of a video, found in small pictures.

A boundary is where most of the picture changes at once, by much more than shortly before and after, and stays changed.
So pans, slow fades and dissolves, flashes and shots of up to three pictures, and what fills less than half of the
picture give no boundaries. An explosion that fills the picture does, and cuts between two dark pictures are missed. The
comparison with the changes around is that of PySceneDetect's adaptive detector, with the median over the picture in
place of means of hue, saturation and value, which on dark or noisy pictures are mostly noise (docs/media.md has figures
of both).
"""

from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from shards.errors import MediaError
from shards.media.container import decode_from
from shards.media.limits import allowed_frames
from shards.media.source_file import check_readable
from shards.settings import CorpusSettings

SIDE = 32  # Pixels of both sides of a small picture; its colours, and what boundaries are found in, have half as many.
COARSE = SIDE // 2
MIDDLE = COARSE * COARSE // 2
LEAST_CHANGE = 15  # Of a boundary, in levels (see `change`).
RATIO = 3.0  # Of a boundary's change to the mean of the changes BESIDE it.
BESIDE = (-3, -2, 2, 3)  # Pictures away: a boundary may be blended over three pictures.
STAYS = 4  # So many pictures before a boundary differ by LEAST_CHANGE from so many from the boundary on.
LEAD_S = 2.0  # Of the video on either side of a window is decoded, too: at least STAYS pictures at 2 a second.


class SmallPicture(NamedTuple):
    """A frame in small: luma, int16 [SIDE, SIDE], and luma and both colour differences, int16 [3, COARSE, COARSE]."""

    luma: np.ndarray
    coarse: np.ndarray


def small_picture(frame: av.VideoFrame, scaler: VideoReformatter) -> SmallPicture:
    """Return a frame in small, with levels from 0 to 255. Costs a twentieth of decoding, scaling and encoding it."""
    small = scaler.reformat(frame, SIDE, SIDE, format="yuv420p", interpolation="AREA", threads=1)
    luma, *colours = (_plane(plane) for plane in small.planes)
    coarse = np.empty((3, COARSE, COARSE), np.int16)
    coarse[0], coarse[1], coarse[2] = luma[::2, ::2], *colours
    return SmallPicture(luma.astype(np.int16), coarse)


def _plane(plane: Any) -> np.ndarray:
    """Return a plane as uint8 [height, width]. PyAV's to_ndarray takes five times as long."""
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def change(one: SmallPicture, other: SmallPicture) -> int:
    """Return the median over the coarse pixels of two pictures of their absolute difference, summed over the planes."""
    difference = np.abs(one.coarse - other.coarse).sum(axis=0, dtype=np.int16).ravel()
    return int(np.partition(difference, MIDDLE)[MIDDLE])


class BoundaryFinder:
    """Find the boundaries in pictures that are added in the order of their times. A repeated picture is not added.

    boundaries_s: the times of the first pictures after a boundary. Among the first and the last STAYS - 1 changes there
    is none: what comes before or after is not known.
    """

    def __init__(self) -> None:
        self.boundaries_s: list[float] = []
        # The last pictures, at most 2 * STAYS, with their times, and their changes to the pictures before them.
        self._times: list[float] = []
        self._pictures: list[SmallPicture] = []
        self._changes: list[int] = []
        self._since = STAYS  # Pictures since the last boundary.

    def add(self, time_s: float, picture: SmallPicture) -> None:
        """Add a small picture that is shown from `time_s` on."""
        self._changes.append(change(self._pictures[-1], picture) if self._pictures else 0)
        self._times.append(time_s)
        self._pictures.append(picture)
        if len(self._pictures) > 2 * STAYS:
            for column in (self._times, self._pictures, self._changes):
                del column[0]
        self._since += 1
        if len(self._pictures) == 2 * STAYS and self._since >= STAYS and self._is_boundary():
            self.boundaries_s.append(self._times[STAYS])
            self._since = 0

    def _is_boundary(self) -> bool:
        """Return whether the picture in the middle begins a shot."""
        least, beside = self._changes[STAYS], [self._changes[STAYS + away] for away in BESIDE]
        if least < max(LEAST_CHANGE, RATIO * sum(beside) / len(beside)):
            return False
        before, after = self._pictures[:STAYS], self._pictures[STAYS:]
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
    return [round(at_s, 3) for at_s in finder.boundaries_s if start_s <= at_s < end_s]


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
