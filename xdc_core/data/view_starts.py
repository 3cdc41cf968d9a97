"""The first frames of equally spaced views of a recording, which may be stored in several clips."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.corpus.index import label_columns, read_whole_index
from shards.store.manifest import read_manifest
from xdc_core.data.rows import ClipRows


def spaced_starts(frames: Sequence[int], wanted: int, views: int) -> list[tuple[int, int]]:
    """Return (clip, first frame) of each view of a recording, in order.

    frames: the length of each clip of the recording. A view has `wanted` frames of one clip, or all frames of a shorter
    clip. The first view starts with the recording, and the last ends with it; a single view lies in the middle.
    (Paper, section 4: 10 uniform clips per video.)
    """
    ends = np.cumsum(frames)
    room = max(0, int(ends[-1]) - wanted)
    starts = np.linspace(0, room, views) if views > 1 else np.array([room / 2])
    placed = []
    for start in np.rint(starts).astype(int):
        clip = int(np.searchsorted(ends, start, side="right").clip(max=len(frames) - 1))
        first = start - (int(ends[clip]) - frames[clip])
        placed.append((clip, int(max(0, min(first, frames[clip] - wanted)))))
    return placed


def clip_starts(frames: int, wanted: int, views: int) -> tuple[int, ...]:
    """Return the first frames of a clip's equally spaced views, without repetitions; as `spaced_starts`."""
    return tuple(dict.fromkeys(first for _, first in spaced_starts([frames], wanted, views)))


def labels_by_row(corpus: Path) -> list[str | None]:
    """Return the column `label` of a corpus's index, in the order of its rows; empty if it has none."""
    if "label" not in label_columns(corpus):
        return []
    labels: list[str | None] = read_whole_index(corpus, ["label"])["label"].to_pylist()
    return labels


def mark_of_parts(corpus: Path) -> dict[str, str]:
    """Return a mark, for fingerprints, if a file has parts with different labels; empty if none has, or no clips exist.

    Earlier versions spread the views over whole files, so only the results for such data sets are others.
    """
    if read_manifest(corpus) is None:
        return {}
    try:
        if "label" not in label_columns(corpus):
            return {}
        table = read_whole_index(corpus, ["source", "label"])
    except (OSError, pa.ArrowInvalid):  # Damaged: what reads the clips says so.
        return {}
    labels = table.group_by("source").aggregate([("label", "count_distinct", pc.CountOptions(mode="all"))])
    parted = pc.any(pc.greater(labels["label_count_distinct"], 1)).as_py()
    return {"parts": "with views of their own"} if parted else {}


def starts_by_row(rows: ClipRows, wanted: int, views: int, labels: Sequence[str | None] = ()) -> list[list[int]]:
    """Return, for each row, the first frames of its recording's views that lie in this clip.

    wanted: frames per view. views: views per recording. labels: of each row, if the parts of a source with different
    labels are recordings of their own; otherwise a recording is a source.
    """
    clips: dict[tuple[str, str | None], list[tuple[float, str, int, int]]] = defaultdict(list)
    sources, starts, frames = (rows.column(name) for name in ("source", "start_s", "frames"))
    for number, (source, start_s, key) in enumerate(zip(sources, starts, rows.keys.to_pylist(), strict=True)):
        clips[source, labels[number] if labels else None].append((start_s, key, frames[number], number))
    starts_of: list[list[int]] = [[] for _ in range(len(rows))]
    for parts in clips.values():
        parts.sort()
        for clip, first in spaced_starts([part[2] for part in parts], wanted, views):
            starts_of[parts[clip][3]].append(first)
    return starts_of
