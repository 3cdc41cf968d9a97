"""Near-duplicates among a run's clips: which are kept, which of them the others repeat, and leaks between splits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from shards.corpus.index import in_splits
from shards.progress import Progress, silent
from xdc_core.curation.neighbours import Neighbours, Points, Spans, find_neighbours
from xdc_core.curation.threshold import Valley, find_threshold

CLIP_COLUMNS = ["key", "source", "start_s", "duration_s", "split", "mp4_size", "flac_size"]


@dataclass(frozen=True)
class Duplicates:
    """What was found. All arrays have a value per clip.

    keys, splits: text. of: int64, the number of the kept clip that the clip repeats; -1: the clip is kept. similarity:
    float32, to that clip, NaN for kept ones. first, second: int64 [pairs], numbers of clips that are near-duplicates,
    and pair_similarity, float32, most similar pair first. valley: the histogram; threshold: that was applied, or None.
    """

    keys: np.ndarray
    splits: np.ndarray
    of: np.ndarray
    similarity: np.ndarray
    first: np.ndarray
    second: np.ndarray
    pair_similarity: np.ndarray
    valley: Valley
    threshold: float | None

    @property
    def kept(self) -> np.ndarray:
        """Return which clips are kept, bool [clips]."""
        kept: np.ndarray = self.of < 0
        return kept

    @property
    def leaks(self) -> np.ndarray:
        """Return the numbers of the pairs whose clips are of different splits, int64."""
        return np.flatnonzero(self.splits[self.first] != self.splits[self.second])


def spans_of(clips: pa.Table, same_source: bool) -> Spans:
    """Return the spans of the clips of an index. same_source: compare clips of one source that do not overlap."""
    source = clips["source"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    if not same_source:
        return Spans(source)
    start_s, duration_s = (clips[name].to_numpy() for name in ("start_s", "duration_s"))
    return Spans(source, start_s, start_s + duration_s)


def find_duplicates(
    points: Points,
    clips: pa.Table,
    centres: np.ndarray,
    *,
    learn_splits: Sequence[str] | None,
    threshold: float | None = None,
    same_source: bool = False,
    progress: Progress = silent,
) -> Duplicates:
    """Find the clips that repeat others.

    clips: CLIP_COLUMNS of the index, in the order of the points. centres: as from `cluster_starts`. threshold: of the
    similarity; None: found by `find_threshold`, and without one nothing is a duplicate.

    Of every two near-duplicates at most one is kept, and every clip that is not kept is similar to a kept one. Clips of
    splits that are not learnt from are kept first, so that a leak costs a clip to learn from and not a test clip; then
    those with more stored bytes per second; then by key. (SemDeDup keeps the clip that is farthest from its centroid;
    ours.)
    """
    spans, ranks = spans_of(clips, same_source), _ranks(clips, learn_splits)
    found = find_neighbours(points, centres, spans, progress=progress)
    valley = find_threshold(found.similarity[:, 0])
    limit = valley.threshold if threshold is None else threshold
    of = np.full(len(points), -1, np.int64)
    pairs = _pairs(found, limit)
    everything = [pairs]
    while limit is not None and len(pairs[0]):
        _drop(of, pairs, ranks)
        # A clip may have more copies than neighbours were looked for: those that are left are compared again.
        crowded = (found.similarity[:, -1] >= limit) & (of < 0)
        if not crowded.any():
            break
        found = find_neighbours(points, centres, spans, of < 0, progress)
        pairs = _pairs(found, limit)
        everything.append(pairs)
    first, second, values = (np.concatenate(column) for column in zip(*everything, strict=True))
    of = _roots(of)
    similarity = np.full(len(points), np.nan, np.float32)
    for row in np.flatnonzero(of >= 0).tolist():
        similarity[row] = float(points.vectors[row] @ points.vectors[of[row]])
    order = np.argsort(-values, kind="stable")
    splits = np.array([split or "" for split in clips["split"].to_pylist()], object)
    return Duplicates(points.keys, splits, of, similarity, first[order], second[order], values[order], valley, limit)


def _ranks(clips: pa.Table, learn_splits: Sequence[str] | None) -> np.ndarray:
    """Return the place of every clip in the order in which clips are kept, int64."""
    learnt = in_splits(clips["split"], learn_splits)
    stored = (clips["mp4_size"].to_numpy() + clips["flac_size"].to_numpy()) / clips["duration_s"].to_numpy()
    keys = np.array(clips["key"].to_pylist())
    ranks = np.empty(len(clips), np.int64)
    ranks[np.lexsort((keys, -stored, learnt))] = np.arange(len(clips))
    return ranks


def _pairs(found: Neighbours, limit: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs of at least this similarity, each once: numbers of the clips, and similarities."""
    rows, places = np.nonzero(found.similarity >= (np.inf if limit is None else limit))
    others = found.row[rows, places].astype(np.int64)
    low, high = np.minimum(rows, others), np.maximum(rows, others)
    _, once = np.unique(low * len(found.row) + high, return_index=True)
    return low[once], high[once], found.similarity[rows, places][once]


def _drop(of: np.ndarray, pairs: tuple[np.ndarray, np.ndarray, np.ndarray], ranks: np.ndarray) -> None:
    """Give every clip that repeats one of a better rank, itself kept, the number of the most similar such clip."""
    first, second, values = pairs
    swapped = ranks[first] > ranks[second]
    better, worse = np.where(swapped, second, first), np.where(swapped, first, second)
    order = np.lexsort((-values, ranks[worse]))
    for kept, row in zip(better[order].tolist(), worse[order].tolist(), strict=True):
        if of[row] < 0 and of[kept] < 0:
            of[row] = kept


def _roots(of: np.ndarray) -> np.ndarray:
    """Return for every clip the kept clip at the end of its chain: a clip may be dropped after others were for it."""
    roots = of.copy()
    while True:
        further = np.where(roots >= 0, of[roots], -1)
        if not (further >= 0).any():
            return roots
        roots = np.where(further >= 0, further, roots)


def keep_list(found: Duplicates) -> pa.Table:
    """Return a row per clip: key, kept, group, duplicate_of, similarity.

    group: a number for each kept clip that others repeat, and for those; null for clips without duplicates.
    duplicate_of: the key of the kept clip, null for kept ones. similarity: to it.
    """
    leaders = np.unique(found.of[found.of >= 0])
    leader = np.where(found.of >= 0, found.of, np.arange(len(found.of)))
    place = np.minimum(np.searchsorted(leaders, leader), max(0, len(leaders) - 1))
    grouped = leaders[place] == leader if len(leaders) else np.zeros(len(leader), bool)
    return pa.table(
        {
            "key": pa.array(found.keys.tolist(), pa.string()),
            "kept": pa.array(found.kept),
            "group": pa.array(place, pa.int32(), mask=~grouped),
            "duplicate_of": pa.array(found.keys[leader].tolist(), pa.string(), mask=found.kept),
            "similarity": pa.array(found.similarity, pa.float32(), mask=found.kept),
        }
    )


def pair_table(found: Duplicates) -> pa.Table:
    """Return a row per pair of near-duplicates, most similar first: both keys and splits, similarity, and leak."""
    names = {"a": found.first, "b": found.second}
    columns = {f"key_{name}": pa.array(found.keys[rows].tolist(), pa.string()) for name, rows in names.items()}
    columns |= {f"split_{name}": pa.array(found.splits[rows].tolist(), pa.string()) for name, rows in names.items()}
    leak = found.splits[found.first] != found.splits[found.second]
    return pa.table(columns | {"similarity": found.pair_similarity, "leak": pa.array(leak.astype(bool))})


def summary(found: Duplicates) -> dict[str, Any]:
    """Return counts, the threshold and how it came about, and the leaks by pair of splits, as JSON values."""
    leaks: dict[str, int] = {}
    for pair in found.leaks.tolist():
        names = sorted(found.splits[row] or "(no split)" for row in (found.first[pair], found.second[pair]))
        leaks[" / ".join(names)] = leaks.get(" / ".join(names), 0) + 1
    groups = np.unique(found.of[found.of >= 0])
    return {
        "clips": len(found.keys),
        "duplicates": int((found.of >= 0).sum()),
        "groups": len(groups),
        "pairs": len(found.first),
        "threshold": found.threshold,
        "why": found.valley.why if found.threshold == found.valley.threshold else "given",
        "leaks": leaks,
        "histogram": {"similarity": found.valley.edges, "clips": found.valley.counts},
    }
