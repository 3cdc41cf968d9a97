"""Where the views of a recording lie: equally spaced over all of it, whatever clips it is stored in."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shards.index import read_whole_index


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


def views_by_clip(corpus: Path, wanted: int, views: int) -> dict[str, list[int]]:
    """A clip's key -> the first frames of the views of its recording that lie in it."""
    table = read_whole_index(corpus, ["key", "source", "start_s", "frames"])
    clips: dict[str, list[tuple[float, str, int]]] = defaultdict(list)
    for row in table.to_pylist():
        clips[row["source"]].append((row["start_s"], row["key"], row["frames"]))
    found: dict[str, list[int]] = defaultdict(list)
    for parts in clips.values():
        parts.sort()
        for clip, first in place_views([frames for _, _, frames in parts], wanted, views):
            found[parts[clip][1]].append(first)
    return found
