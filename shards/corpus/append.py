"""Append to a corpus: new clips go into new shards, shards that exist are kept, clips of removed sources are masked.

Every append makes a new generation of the corpus: a directory of its own, which shares the files of the kept shards
with the one before by hard links.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.corpus.generation import NAMED, read_as
from shards.corpus.index import (
    label_columns,
    read_masks,
    read_stored_index,
    shard_name,
    shard_names,
)
from shards.corpus.keep import Before
from shards.corpus.plan import Plan, clip_table
from shards.errors import ConfigError, StageError
from shards.settings import CorpusSettings
from shards.sources.columns import SourceColumns
from shards.sources.look import PROBE_VERSION, UNREADABLE, damage_of
from shards.sources.split import split_name
from shards.sources.surveyed import Survey, Surveyed, survey_columns

BATCH = 65_536  # Clips of which keys are held as Python objects.


def with_unreadable(surveyed: Survey, known: Iterable[Surveyed]) -> Survey:
    """Return a survey in which files that cannot be read now are as a committed corpus knows them: their clips stay.

    A warning names them. known: the survey in the corpus.
    """
    reasons = surveyed.table["reason"].cast(pa.string())
    lost = {*surveyed.table["path"].filter(pc.starts_with(reasons, UNREADABLE)).to_pylist()}
    kept = {entry.path: entry for entry in known if not entry.reason and entry.path in lost} if lost else {}
    if not kept:
        return surveyed
    print(
        f"warning: {len(kept)} sources cannot be read now ({', '.join(sorted(kept)[:NAMED])}). Clips that the corpus "
        "has of them stay.",
        file=sys.stderr,
        flush=True,
    )
    return survey_columns(chain(surveyed.files(), kept.values()))


def appended(before: Before, plan: Plan, surveyed: Survey, settings: CorpusSettings) -> Plan:
    """Return the clips of a plan of all sources, those of the committed corpus in its shards, and others in new ones.

    A clip is the same if its key and end are, and its file has the same content. One that was masked is not masked any
    more, if its split and labels are the same, too. Clips that an earlier version of xdc damaged are new. New clips are
    shuffled among themselves, with a seed from `shuffle_seed` and the number of earlier generations.

    Raises:
        ConfigError: clips of the corpus have another split or other labels now, or new clips have a column of labels
            that the corpus does not have.
        StageError: a file of the corpus is damaged, or more than `max_masked_share` of its clips would be masked.
    """
    corpus = before.corpus
    plan = replace(plan, sources=_with_columns(plan.sources, label_columns(corpus)))
    _check_columns(corpus, plan)
    stored, shard = _stored_ids(before)
    found = pc.index_in(_planned_ids(plan, surveyed), value_set=stored).fill_null(-1).to_numpy().astype(np.int64)
    place = np.where(_damaged(before, plan, surveyed)[plan.source], -1, found)
    live = len(before.clips)
    _check_share(before, np.unique(place[(place >= 0) & (place < live)]), settings)
    for number in np.unique(shard[place[place >= live]]).tolist():
        back = np.flatnonzero((place >= live) & (shard[place] == number))
        place[[position for position, *_ in _changed_labels(corpus, plan, number, back)]] = -1
    kept, new = np.flatnonzero(place >= 0), np.flatnonzero(place < 0)
    kept = kept[np.lexsort((place[kept], shard[place[kept]]))]
    for number in np.unique(shard[place[place >= live]]).tolist():
        own = np.flatnonzero(shard[place[kept]] == number)
        kept[own] = _as_stored(corpus, plan, number, kept[own])
    new = new[np.lexsort((plan.start_s[new], plan.source[new]))]
    new = new[np.random.default_rng([settings.shuffle_seed, before.number]).permutation(len(new))]
    first, order = len(shard_names(corpus)), np.concatenate([kept, new])
    shards = shard[place[kept]], first + np.arange(len(new)) // settings.clips_per_shard
    result = replace(
        plan,
        source=plan.source[order],
        start_s=plan.start_s[order],
        end_s=plan.end_s[order],
        shard=np.concatenate(shards).astype(np.int32),
        kept_shards=first,
        kept_from=read_as(before.manifest),
    )
    _check_labels(corpus, result)
    return result


def _stored_ids(before: Before) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Return 16 bytes for each stored clip, and its shard, int32: those of the plan, then masked ones.

    A clip that was masked, cut again, and masked again is there several times: the last one comes first.
    """
    ids, shards = list[pa.Array](), [before.clips["shard"].to_numpy()]
    for first in range(0, len(before.clips), BATCH):
        rows = before.clips.slice(first, BATCH)
        ids.append(_ids(rows["key"], rows["end_s"], before.contents(slice(first, first + BATCH))))
    for shard in reversed(shard_names(before.corpus)):
        masked = {key: mask for key, mask in read_masks(before.corpus, shard).items() if mask.holds()}
        if masked:
            ends, contents = ([getattr(mask, name) for mask in masked.values()] for name in ("end_s", "sha256"))
            ids.append(_ids(pa.array(masked, pa.string()), pa.array(ends, pa.float64()), contents))
            shards.append(np.full(len(masked), int(shard), np.int32))
    return pa.chunked_array(ids, pa.binary(16)), np.concatenate(shards)


def _planned_ids(plan: Plan, surveyed: Survey) -> pa.ChunkedArray:
    """Return 16 bytes for each clip of a plan."""
    contents = surveyed.table["sha256"].take(pa.array(surveyed.numbers(plan.sources.table["path"])))
    ids = list[pa.Array]()
    for first in range(0, len(plan.source), BATCH):
        places = slice(first, first + BATCH)
        rows = clip_table(plan, places)
        ids.append(_ids(rows["key"], rows["end_s"], contents.take(pa.array(plan.source[places])).to_pylist()))
    return pa.chunked_array(ids, pa.binary(16))


def _ids(keys: pa.Array | pa.ChunkedArray, ends: pa.Array | pa.ChunkedArray, contents: list[str]) -> pa.Array:
    """Return 16 bytes for each clip, from its key, its end, and the sha256 of its source."""
    rows = zip(keys.to_pylist(), ends.to_pylist(), contents, strict=True)
    digests = [hashlib.blake2b(f"{key} {end_s!r} {sha}".encode(), digest_size=16).digest() for key, end_s, sha in rows]
    return pa.array(digests, pa.binary(16))


def _damaged(before: Before, plan: Plan, surveyed: Survey) -> np.ndarray:
    """Return bool [sources]: whether an earlier version damaged the clips of each source, and this one would not."""
    versions = before.files.table["probe_version"]
    if not len(versions) or pc.min(versions).as_py() >= PROBE_VERSION:
        return np.zeros(len(plan.sources), bool)
    damaged = pa.array([entry.path for entry in before.files.files() if damage_of(entry)], pa.large_string())
    damaged = damaged.filter(pc.is_in(damaged, value_set=surveyed.table["path"]))
    again = [entry.path for entry in surveyed.entries(damaged) if not damage_of(entry)]
    paths = plan.sources.table["path"]
    of_sources: np.ndarray = pc.is_in(paths, value_set=pa.array(again, paths.type)).to_numpy()
    return of_sources


def _check_share(before: Before, kept: np.ndarray, settings: CorpusSettings) -> None:
    """Raise StageError if too many clips would be masked. kept: places of the clips that would not, each once."""
    count = len(before.clips)
    lost = np.setdiff1d(np.arange(count), kept)
    if len(lost) <= settings.max_masked_share * count:
        return
    sources = before.clips["source"].take(pa.array(lost[:BATCH])).unique().to_pylist()
    raise StageError(
        f"{len(lost)} of the {count} clips of {before.corpus} would be masked, more than the share allowed by "
        f"corpus.max_masked_share ({settings.max_masked_share:g}): their sources are not in corpus.videos any more, "
        f"have changed, or are to be cut again because an earlier version of xdc damaged their clips "
        f"({', '.join(sources[:NAMED])}{' ...' if len(sources) > NAMED else ''}). Is a folder not mounted, or were "
        "videos moved? A clip is found again by the path of its source. If it is as you want it, raise "
        "max_masked_share and run again."
    )


def _with_columns(sources: SourceColumns, names: list[str]) -> SourceColumns:
    """Return the sources with all of these columns of labels, so that all indices have the same columns."""
    table = sources.table
    for name in names:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.dictionary(pa.int32(), pa.string())))
    return SourceColumns(table)


def _check_columns(corpus: Path, plan: Plan) -> None:
    more = sorted({*plan.sources.label_names}.difference(label_columns(corpus)))
    if more and shard_names(corpus):
        raise ConfigError(
            f"corpus.videos has labels in {', '.join(more)}, and {corpus} has no such column. corpus.append changes no "
            "shard that exists: take the column out, or cut all clips again: xdc stage shard RUN --force"
        )


def _check_labels(corpus: Path, plan: Plan) -> None:
    """Raise ConfigError if clips of kept shards are to have another split, or other labels."""
    changed, count = list[str](), 0
    for number in range(plan.kept_shards):
        places = plan.places(number)
        for place, name, old, now in _changed_labels(corpus, plan, number, np.arange(places.start, places.stop)):
            count += 1
            changed.append(f"{plan.sources[int(plan.source[place])].path}: {name} {old!r} -> {now!r}")
            del changed[NAMED:]
    if changed:
        raise ConfigError(
            f"corpus.videos has another split or other labels for clips that {corpus} has ({count} values): "
            f"{'; '.join(changed)}. corpus.append does not change them: bring the old values back, or cut all clips "
            "again with the new ones: xdc stage shard RUN --force"
        )


def _changed_labels(corpus: Path, plan: Plan, number: int, places: np.ndarray) -> Iterator[tuple[int, str, Any, Any]]:
    """Yield the splits and labels that differ from the index of a shard: place in the plan, column, old, new."""
    columns = ["split", *plan.sources.label_names]
    index, clips = read_stored_index(corpus, shard_name(number), ["key", *columns]), clip_table(plan, places)
    found = pc.index_in(clips["key"], value_set=index["key"])
    there = found.is_valid()  # A clip that was rejected is not in the index.
    index, clips, places = index.take(found.filter(there)), clips.filter(there), places[there.to_numpy()]
    for name in columns:
        old, now = index[name], clips[name]
        one_is_null = pc.xor(old.is_null(), now.is_null())
        for row in np.flatnonzero(pc.or_(pc.not_equal(old, now).fill_null(False), one_is_null).to_numpy()).tolist():
            values = old[row].as_py(), now[row].as_py()
            if name != "split" or split_name(values[0] or "") != split_name(values[1] or ""):
                yield int(places[row]), name, *values


def _as_stored(corpus: Path, plan: Plan, number: int, places: np.ndarray) -> np.ndarray:
    """Return places of a plan in the order in which the clips are in a shard, rejected ones last."""
    index = read_stored_index(corpus, shard_name(number), ["key"])
    found = pc.index_in(clip_table(plan, places)["key"], value_set=index["key"]).fill_null(len(index)).to_numpy()
    ordered: np.ndarray = places[np.argsort(found, kind="stable")]
    return ordered
