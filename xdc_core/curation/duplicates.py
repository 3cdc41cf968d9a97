"""Near-duplicates among a run's clips: which are kept, which of them the others repeat, and leaks between splits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from shards.corpus.index import in_splits
from shards.progress import Progress, silent
from xdc_core.curation.clips import ABOUT
from xdc_core.curation.left_out import joined, leave_out_leaks, leave_out_repeats, pairs_of
from xdc_core.curation.neighbours import Spans, find_neighbours
from xdc_core.curation.points import Points
from xdc_core.curation.threshold import Threshold, find_threshold

CLIP_COLUMNS = ["key", "source", "start_s", "duration_s", "split", "mp4_size", "flac_size"]


@dataclass(frozen=True)
class Duplicates:
    """What was found. All arrays have a value per clip.

    keys, splits: text. of: int64, the number of the clip that the clip repeats; -1: the clip is kept. similarity:
    float32, to that clip, NaN for kept ones. leaked: bool, whether it is a clip to learn from that repeats one that is
    not, which may be left out itself; what all others repeat is kept. first, second: int64 [pairs], numbers of clips
    that are near-duplicates, and pair_similarity, float32, most similar pair first. complete: whether these are all;
    if not, some clip has more than NEAREST, and they are its nearest ones. rule: the histogram, and the threshold that
    was found; threshold: that was applied, or None.
    """

    keys: np.ndarray
    splits: np.ndarray
    of: np.ndarray
    similarity: np.ndarray
    leaked: np.ndarray
    first: np.ndarray
    second: np.ndarray
    pair_similarity: np.ndarray
    complete: bool
    rule: Threshold
    threshold: float | None

    @property
    def kept(self) -> np.ndarray:
        """Return which clips are kept, bool [clips]."""
        kept: np.ndarray = self.of < 0
        return kept

    @property
    def roots(self) -> np.ndarray:
        """Return the number of the kept clip of each clip's group, int64; its own if it is kept."""
        own = np.arange(len(self.of))
        once = np.where(self.of >= 0, self.of, own)
        return np.where(self.of[once] >= 0, self.of[once], once)  # A leaked clip repeats one that may be left out.

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

    First every clip to learn from that is similar to any clip that is not learnt from is left out, whether that one is
    kept or not: a leak costs no test clip. Of the others, of every two near-duplicates at most one is kept, and every
    clip that is left out is similar to a kept one. Kept is the one with more stored bytes per second; then the one with
    the smaller key. (SemDeDup keeps the clip that is farthest from its centroid; ours.)
    """
    spans, learnt = spans_of(clips, same_source), in_splits(clips["split"], learn_splits)
    found = find_neighbours(points, centres, spans, progress=progress)
    rule = find_threshold(found.similarity[:, 0])
    limit = rule.similarity if threshold is None else threshold
    seen = [pairs_of(found, limit)]
    full = limit is not None and bool((found.similarity[:, -1] >= limit).any())
    if full and learnt.any() and not learnt.all():
        # A clip's nearest ones may all be of its own split, and hide those of others.
        across = replace(spans, side=learnt)
        seen.append(pairs_of(find_neighbours(points, centres, across, progress=progress), limit))
    left = leave_out_leaks(seen[-1], learnt)
    leaked = left.of >= 0
    if limit is not None:
        compare = partial(find_neighbours, points, centres, spans, progress=progress)
        seen += leave_out_repeats(left, points.vectors, found, compare, _ranks(clips, learnt), limit)
    pairs = joined(seen)
    first, second, values = (column[np.argsort(-pairs.similarity, kind="stable")] for column in pairs)
    splits = np.array([split or "" for split in clips["split"].to_pylist()], object)
    return Duplicates(points.keys, splits, *left, leaked, first, second, values, not full, rule, limit)


def _ranks(clips: pa.Table, learnt: np.ndarray) -> np.ndarray:
    """Return the place of every clip in the order in which clips are kept, int64."""
    stored = (clips["mp4_size"].to_numpy() + clips["flac_size"].to_numpy()) / clips["duration_s"].to_numpy()
    keys = np.array(clips["key"].to_pylist())
    ranks = np.empty(len(clips), np.int64)
    ranks[np.lexsort((keys, -stored, learnt))] = np.arange(len(clips))
    return ranks


def keep_list(found: Duplicates, others: Sequence[str], about: Mapping[str, Any]) -> pa.Table:
    """Return a row per clip: key, kept, group, duplicate_of, similarity.

    others: the keys of the corpus's clips that were not compared, because they have no feature: kept is null.
    group: a number for each kept clip that others repeat, and for those; null for clips without duplicates.
    duplicate_of: the key of the clip that it repeats, null for kept ones. similarity: to it. about: how it came about,
    as JSON values; in the table's metadata under ABOUT.
    """
    roots, none = found.roots, pa.nulls(len(others))
    leaders = np.unique(roots[~found.kept])
    place = np.minimum(np.searchsorted(leaders, roots), max(0, len(leaders) - 1))
    grouped = leaders[place] == roots if len(leaders) else np.zeros(len(roots), bool)
    columns = {
        "key": pa.array(found.keys.tolist(), pa.string()),
        "kept": pa.array(found.kept),
        "group": pa.array(place, pa.int32(), mask=~grouped),
        "duplicate_of": pa.array(found.keys[found.of].tolist(), pa.string(), mask=found.kept),
        "similarity": pa.array(found.similarity, pa.float32(), mask=found.kept),
    }
    ends = {name: none.cast(column.type) for name, column in columns.items()}
    ends["key"] = pa.array(list(others), pa.string())
    table = pa.table({name: pa.concat_arrays([column, ends[name]]) for name, column in columns.items()})
    return table.replace_schema_metadata({ABOUT: json.dumps(about, sort_keys=True)})


def pair_table(found: Duplicates) -> pa.Table:
    """Return a row per pair of near-duplicates, most similar first: both keys and splits, similarity, and leak."""
    names = {"a": found.first, "b": found.second}
    columns = {f"key_{name}": pa.array(found.keys[rows].tolist(), pa.string()) for name, rows in names.items()}
    columns |= {f"split_{name}": pa.array(found.splits[rows].tolist(), pa.string()) for name, rows in names.items()}
    leak = found.splits[found.first] != found.splits[found.second]
    return pa.table(columns | {"similarity": found.pair_similarity, "leak": pa.array(leak.astype(bool))})


def summary(found: Duplicates) -> dict[str, Any]:
    """Return counts, the threshold and how it came about, and the leaks by pair of splits, as JSON values.

    leaked: clips to learn from that are left out for a leak. leaks: pairs; at least so many without `pairs_complete`.
    """
    leaks: dict[str, int] = {}
    for pair in found.leaks.tolist():
        names = sorted(found.splits[row] or "(no split)" for row in (found.first[pair], found.second[pair]))
        leaks[" / ".join(names)] = leaks.get(" / ".join(names), 0) + 1
    return {
        "clips": len(found.keys),
        "duplicates": int((~found.kept).sum()),
        "groups": len(np.unique(found.roots[~found.kept])),
        "leaked": int(found.leaked.sum()),
        "pairs": len(found.first),
        "pairs_complete": found.complete,
        "threshold": found.threshold,
        "why": found.rule.why if found.threshold == found.rule.similarity else "given",
        "leaks": leaks,
        "histogram": {"similarity": found.rule.edges, "clips": found.rule.counts},
    }
