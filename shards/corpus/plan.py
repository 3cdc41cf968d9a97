"""The plan of a corpus: which part of which source goes into which shard, fixed before anything is written.

A plan consists of columns, 28 bytes a clip: keys are computed from sources and times where they are needed.
"""

import hashlib
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from shards.errors import StageError
from shards.media.limits import too_much
from shards.reject import Kind, Reject
from shards.settings import CorpusSettings, stored_part
from shards.sources.columns import SourceColumns, source_columns
from shards.sources.coverage import SLACK_S, Span, rejected_spans, slack_s, uncovered
from shards.sources.look import PROBE_VERSION
from shards.sources.rejects import reject_columns
from shards.sources.source import Listing, Source
from shards.sources.surveyed import Survey, Surveyed
from shards.sources.window import window_of
from shards.store.manifest import canonical

STAGE_VERSION = 3
# Raise it when the same span gives another clip for a few files only: finished corpora stay fresh, and shards of an
# earlier version in a partial directory are not used. Version 2 decodes sound frames without timestamps; version 3
# gives the same clips, and measures them.
CUT_VERSION = 3


@dataclass(frozen=True)
class PlannedClip:
    """A planned clip: its key, path of the source and span in seconds, number of the shard, split and labels."""

    key: str
    source: str
    start_s: float
    end_s: float
    shard: int
    split: str
    labels: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Plan:
    """The clips in the order in which they are stored, and what was rejected before decoding.

    source: int32 [clips], numbers in `sources`. start_s, end_s: float64 [clips]. shard: int32 [clips], ascending.
    asked_s: float64 [sources, 2], the requested span up to the last packet, NaN if there is none. rejects: as
    from `reject_columns`. kept_shards: the number of first shards that an earlier generation of the corpus has; any of
    them may have no clips left. kept_from: identifies that generation.
    """

    sources: SourceColumns
    source: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    shard: np.ndarray
    asked_s: np.ndarray
    rejects: pa.Table
    kept_shards: int = 0
    kept_from: str = ""

    @property
    def shards(self) -> int:
        """Return the number of shards."""
        return max(self.kept_shards, 1 + int(self.shard[-1]) if len(self.shard) else 0)

    def clips(self) -> Iterator["PlannedClip"]:
        """Yield all clips, in order."""
        return planned_clips(clip_table(self, slice(None)))

    def places(self, shard: int) -> slice:
        """Return where the clips of a shard are among all."""
        first, last = np.searchsorted(self.shard, [shard, shard + 1])
        return slice(int(first), int(last))


def clip_table(plan: Plan, places: slice | np.ndarray) -> pa.Table:
    """Return clips of a plan: key, source, start_s, end_s, shard, split, and a column for each label."""
    rows = plan.sources.table.take(pa.array(plan.source[places]))
    starts = plan.start_s[places]
    pairs = zip(rows["path"].to_pylist(), starts.tolist(), strict=True)
    columns = {
        "key": pa.array([clip_key(path, start_s) for path, start_s in pairs], pa.string()),
        "source": rows["path"].cast(pa.string()),
        "start_s": pa.array(starts),
        "end_s": pa.array(plan.end_s[places]),
        "shard": pa.array(plan.shard[places]),
    }
    labels = {name: rows[name].cast(pa.string()) for name in ("split", *plan.sources.label_names)}
    return pa.table(columns | labels)


def planned_clips(rows: pa.Table | pa.RecordBatch) -> Iterator[PlannedClip]:
    """Yield the clips of rows of `clip_table`."""
    for row in rows.to_pylist():
        own = {name: row.pop(name) for name in ("key", "source", "start_s", "end_s", "shard", "split")}
        yield PlannedClip(**own, labels={name: value for name, value in row.items() if value is not None})


def corpus_fingerprint(settings: CorpusSettings, listing: Listing, surveyed: Survey) -> str:
    """Return the fingerprint of a corpus: settings, and per source path, span, split, labels, size and content."""
    states = surveyed.states(source_columns(listing.sources).table["path"])
    return hash_sources(settings, zip(listing.sources, states, strict=True))


def hash_sources(settings: CorpusSettings, sources: Iterable[tuple[Source, tuple[int, str]]]) -> str:
    """Return the fingerprint of a corpus from its sources, in order, each with its size and content.

    It is that of the canonical JSON of the whole, which is never held.
    """
    whole = hashlib.sha256()
    start = canonical(["shard", STAGE_VERSION, stored_part(settings), []])
    whole.update(start[:-2].encode())
    between = ""
    for source, (size, sha256) in sources:
        span = [source.path, source.start_s, source.end_s, source.split]
        whole.update((between + canonical([*span, sorted(source.labels.items()), size, sha256])).encode())
        between = ","
    whole.update(start[-2:].encode())
    return whole.hexdigest()


def clip_key(source: str, start_s: float) -> str:
    """Return a readable key without dots or slashes: name, hash of the path, start in milliseconds."""
    return f"{_key_of(source)}-{round(start_s * 1000):08d}"


def _key_of(source: str) -> str:
    """Return what the keys of all clips of a source begin with."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", source.rsplit("/", 1)[-1].rsplit(".", 1)[0]).strip("-")[:40]
    tag = hashlib.sha256(source.encode()).hexdigest()[:10]
    return f"{stem or 'clip'}-{tag}"


def spans(start_s: float, end_s: float, clip_s: float, min_s: float) -> tuple[list[tuple[float, float]], float]:
    """Cut [start, end) into clips of `clip_s`; a rest of at least `min_s` is a clip, too. Return also the lost spans.

    All values are in seconds. The tolerance is a millisecond, because headers round durations.
    """
    length = end_s - start_s
    whole = math.floor((length + 1e-3) / clip_s)
    cuts = [(start_s + n * clip_s, start_s + (n + 1) * clip_s) for n in range(whole)]
    rest = length - whole * clip_s
    if rest + 1e-3 >= min_s:
        return [*cuts, (start_s + whole * clip_s, end_s)], 0.0
    return cuts, rest if rest > 1e-3 else 0.0


def make_plan(settings: CorpusSettings, listing: Listing, surveyed: Survey) -> Plan:
    """Return the plan of a corpus. The same settings and sources give the same keys in the same shuffled order.

    Raises:
        StageError: a requested second of a source is in no clip and in no reject, which is a defect.
    """
    sources = source_columns(listing.sources)
    source, start_s, end_s, tags, reject_sources = array("i"), array("d"), array("d"), array("Q"), array("i")
    asked_s = np.full((len(sources), 2), np.nan)

    def rejected() -> Iterator[Reject]:
        # Plans one source after the other, and yields its rejects.
        for number, (row, entry) in enumerate(zip(sources, surveyed.entries(sources.table["path"]), strict=True)):
            asked, cuts, rejects = _cut_source(row, entry, settings)
            if asked is not None:
                asked_s[number] = asked
                _check_covered(Span(row.path, *asked), cuts, rejects, settings)
            begins = _key_of(row.path)
            for first, last in cuts:
                source.append(number)
                start_s.append(first)
                end_s.append(last)
                key = f"{begins}-{round(first * 1000):08d}"
                tags.append(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()))
            reject_sources.extend([number] * len(rejects))
            yield from rejects

    rejects = reject_columns(rejected())
    columns = [_numpy(column) for column in (source, start_s, end_s)]
    duplicates = list(_duplicates(_numpy(tags), sources, *columns[:2]))
    if duplicates:
        doubled = reject_columns(_doubled(settings, duplicates, sources, *columns))
        order = np.argsort(np.concatenate([_numpy(reject_sources), columns[0][duplicates]]), kind="stable")
        rejects = pa.concat_tables([rejects, doubled]).unify_dictionaries().take(pa.array(order))
    places = np.delete(np.arange(len(source)), duplicates)
    places = places[np.random.default_rng(settings.shuffle_seed).permutation(len(places))]
    return Plan(
        sources=sources,
        source=columns[0][places],
        start_s=columns[1][places],
        end_s=columns[2][places],
        shard=(np.arange(len(places)) // settings.clips_per_shard).astype(np.int32),
        asked_s=asked_s,
        rejects=pa.concat_tables([reject_columns(listing.rejects), rejects]).unify_dictionaries(),
    )


def _cut_source(
    source: Source, entry: Surveyed, settings: CorpusSettings
) -> tuple[tuple[float, float] | None, list[tuple[float, float]], list[Reject]]:
    """Return the requested span of a source up to its last packet, the spans of its clips, and its rejects.

    The span is None if nothing is requested, or if the file was probed by an earlier version, which trusted headers.
    """
    rejects: list[Reject] = []
    segment = source
    if settings.segment_seconds:
        source = window_of(source, settings.segment_seconds, settings.fps, entry.duration_s, SLACK_S)
    start_s = source.start_s or 0.0
    wanted_s = source.end_s if source.end_s is not None else math.inf
    reach_s, far_s = (min(wanted_s, at_s) for at_s in (entry.reach_s, max(entry.reach_s, entry.last_packet_s)))
    asked = (start_s, far_s) if far_s > start_s and entry.probe_version >= PROBE_VERSION else None
    if reason := entry.reason or too_much(entry.width, entry.height, entry.fps, entry.duration_s, settings):
        kind: Kind = (entry.kind or "damaged") if entry.reason else "too_large"
        span = (start_s, far_s) if far_s > start_s else (source.start_s, source.end_s)
        return asked, [], [Reject(source.path, "probe", kind, reason, "", *span)]
    if far_s - max(start_s, reach_s) > SLACK_S:
        reason = f"behind {reach_s:.2f} s there are only streams that are not used, or one damaged timestamp"
        rejects.append(Reject(source.path, "plan", "outside", reason, "", max(start_s, reach_s), far_s))
    what = "video" if "video" in settings.modalities else "sound"
    end_s = min(wanted_s, entry.duration_s)
    if end_s <= start_s:
        reason = f"start_s ({start_s:g}) is after the end of the {what} ({entry.duration_s:.2f} s)"
        rejects.append(Reject(source.path, "plan", "outside", reason, "", start_s, max(start_s, reach_s)))
        return asked, [], rejects
    if settings.segment_seconds and source is segment and source.end_s is not None:
        reason = (
            f"the part ends at {source.end_s:.2f} s, but the {what} at {entry.duration_s:.2f} s: there is no window of "
            "segment_seconds round it"
        )
        rejects.append(Reject(source.path, "plan", "outside", reason, "", start_s, max(end_s, reach_s)))
        return asked, [], rejects
    if reach_s - end_s > SLACK_S:  # Sound after the end of the picture.
        reason = f"the sound goes on for {reach_s - end_s:.2f} s after the picture ends"
        rejects.append(Reject(source.path, "plan", "no_picture", reason, "", end_s, reach_s))
    inside = [at_s for at_s in entry.boundaries_s or () if settings.cut_at_shots and start_s < at_s < end_s]
    cuts: list[tuple[float, float]] = []
    for first_s, last_s in pairwise([start_s, *inside, end_s]):
        own, lost = spans(first_s, last_s, settings.clip_seconds, settings.min_seconds)
        if not own:
            lost = last_s - first_s  # Even for very short sources, so that every source has a row.
        if lost:
            part = "shot" if inside else what
            whole = f"rest of the {part}" if own else part
            reason = f"the {whole} is {lost:.2f} s long, shorter than min_seconds ({settings.min_seconds:g})"
            short: Kind = "short_shot" if inside and not own else "too_short"
            rejects.append(Reject(source.path, "plan", short, reason, "", last_s - lost, last_s))
        cuts += own
    return asked, cuts, rejects


def _check_covered(
    asked: Span, cuts: list[tuple[float, float]], rejects: list[Reject], settings: CorpusSettings
) -> None:
    covered = [*(Span(asked.source, *cut) for cut in cuts), *rejected_spans(rejects)]
    for span in uncovered([asked], covered, slack_s(settings.fps)):
        raise StageError(
            f"{span.source} from {span.start_s:.2f} s to {span.end_s:.2f} s is in no planned clip and in no reject. "
            "This is a defect of xdc; please report it."
        )


def _numpy(column: "array[Any]") -> np.ndarray:
    return np.frombuffer(column, column.typecode) if column else np.zeros(0, column.typecode)


def _duplicates(tags: np.ndarray, sources: SourceColumns, source: np.ndarray, start_s: np.ndarray) -> Iterator[int]:
    """Yield, in order, the places of the clips whose key an earlier clip has. tags: uint64, hashes of the keys."""
    order = np.argsort(tags, kind="stable")
    same = tags[order[1:]] == tags[order[:-1]]
    keys: set[str] = set()
    for place in np.unique(np.concatenate([order[1:][same], order[:-1][same]])).tolist():
        key = clip_key(sources[int(source[place])].path, float(start_s[place]))
        if key in keys:
            yield place
        keys.add(key)


def _doubled(
    settings: CorpusSettings,
    places: list[int],
    sources: SourceColumns,
    source: np.ndarray,
    start_s: np.ndarray,
    end_s: np.ndarray,
) -> Iterator[Reject]:
    for place in places:
        row, first, last = sources[int(source[place])], float(start_s[place]), float(end_s[place])
        reason = "overlaps an earlier row"
        if settings.segment_seconds and row.end_s is not None:
            reason = "its window begins where that of an earlier part begins; make segment_seconds shorter"
        yield Reject(row.path, "plan", "duplicate", reason, clip_key(row.path, first), first, last)
