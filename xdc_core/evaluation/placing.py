"""Where the views of a recording lie: equally spaced over all of it, whatever clips it is stored in."""

from collections.abc import Sequence

import numpy as np


def place_views(frames: Sequence[int], wanted: int, views: int) -> list[tuple[int, int]]:
    """Of a recording stored in clips of so many `frames`, in order: (clip, first frame) of every view.

    A view has `wanted` frames and lies inside one clip; of a shorter clip it has all. The first view starts with the
    recording, the last ends with it; a single one lies in the middle. (Paper, section 4: 10 uniform clips a video.)
    """
    ends = np.cumsum(frames)
    room = max(0, int(ends[-1]) - wanted)
    starts = np.linspace(0, room, views) if views > 1 else np.array([room / 2])
    places = []
    for start in np.rint(starts).astype(int):
        clip = int(np.searchsorted(ends, start, side="right").clip(max=len(frames) - 1))
        first = start - (int(ends[clip]) - frames[clip])
        places.append((clip, int(max(0, min(first, frames[clip] - wanted)))))
    return places
