"""The plan of a corpus: which part of which source goes into which shard, fixed before anything is written."""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from shards.corpus.coverage import SLACK_S, Span
from shards.corpus.survey import PROBE_VERSION, Surveyed
from shards.media.limits import too_much
from shards.reject import Kind, Reject
from shards.settings import CorpusSettings, stored_part
from shards.sources.source import Listing, Source
from shards.store.manifest import canonical

STAGE_VERSION = 3
# Raise it when the same span gives another clip for a few files only: finished corpora stay fresh, and shards of an
# earlier version in a partial directory are not used. Version 2 decodes sound frames without timestamps.
CUT_VERSION = 2


@dataclass(frozen=True)
class PlannedClip:
    """A planned clip: its key, its source and span in seconds, and its shard's number."""

    key: str
    source: Source
    start_s: float
    end_s: float
    shard: int


@dataclass(frozen=True)
class Plan:
    """The clips in the order in which they are stored, and what was rejected before decoding."""

    clips: tuple[PlannedClip, ...]
    rejects: tuple[Reject, ...]
    label_names: tuple[str, ...]
    asked: tuple[Span, ...] = ()  # The requested spans, up to the last packet of each source.

    @property
    def shards(self) -> int:
        """Return the number of shards."""
        return 1 + max((clip.shard for clip in self.clips), default=-1)


def corpus_fingerprint(settings: CorpusSettings, listing: Listing, surveyed: Mapping[str, Surveyed]) -> str:
    """Return the fingerprint of a corpus: settings, and per source path, span, split, labels, size and content."""
    states = ((surveyed[source.path].size, surveyed[source.path].sha256) for source in listing.sources)
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
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", source.rsplit("/", 1)[-1].rsplit(".", 1)[0]).strip("-")[:40]
    tag = hashlib.sha256(source.encode()).hexdigest()[:10]
    return f"{stem or 'clip'}-{tag}-{round(start_s * 1000):08d}"


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


def make_plan(settings: CorpusSettings, listing: Listing, surveyed: Mapping[str, Surveyed]) -> Plan:
    """Return the plan of a corpus. The same settings and sources give the same keys in the same shuffled order."""
    wanted: list[tuple[str, Source, float, float]] = []
    asked: list[Span] = []
    rejects = list(listing.rejects)
    keys: set[str] = set()
    what = "video" if "video" in settings.modalities else "sound"
    for source in listing.sources:
        entry = surveyed[source.path]
        start_s = source.start_s or 0.0
        wanted_s = source.end_s if source.end_s is not None else math.inf
        reach_s, far_s = (min(wanted_s, at_s) for at_s in (entry.reach_s, max(entry.reach_s, entry.last_packet_s)))
        if far_s > start_s and entry.probe_version >= PROBE_VERSION:  # Earlier versions trusted headers.
            asked.append(Span(source.path, start_s, far_s))
        if reason := entry.reason or too_much(entry.width, entry.height, entry.fps, entry.duration_s, settings):
            kind: Kind = (entry.kind or "damaged") if entry.reason else "too_large"
            span = (start_s, far_s) if far_s > start_s else (source.start_s, source.end_s)
            rejects.append(Reject(source.path, "probe", kind, reason, "", *span))
            continue
        if far_s - max(start_s, reach_s) > SLACK_S:
            reason = f"behind {reach_s:.2f} s there are only streams that are not used, or one damaged timestamp"
            rejects.append(Reject(source.path, "plan", "outside", reason, "", max(start_s, reach_s), far_s))
        end_s = min(wanted_s, entry.duration_s)
        if end_s <= start_s:
            reason = f"start_s ({start_s:g}) is after the end of the {what} ({entry.duration_s:.2f} s)"
            rejects.append(Reject(source.path, "plan", "outside", reason, "", start_s, max(start_s, reach_s)))
            continue
        if reach_s - end_s > SLACK_S:  # Sound after the end of the picture.
            reason = f"the sound goes on for {reach_s - end_s:.2f} s after the picture ends"
            rejects.append(Reject(source.path, "plan", "no_picture", reason, "", end_s, reach_s))
        cuts, lost = spans(start_s, end_s, settings.clip_seconds, settings.min_seconds)
        if not cuts:
            lost = end_s - start_s  # Even for very short sources, so that every source has a row.
        if lost:
            whole = f"rest of the {what}" if cuts else what
            reason = f"the {whole} is {lost:.2f} s long, shorter than min_seconds ({settings.min_seconds:g})"
            rejects.append(Reject(source.path, "plan", "too_short", reason, "", end_s - lost, end_s))
        for first, last in cuts:
            key = clip_key(source.path, first)
            if key in keys:
                rejects.append(Reject(source.path, "plan", "duplicate", "overlaps an earlier row", key, first, last))
                continue
            keys.add(key)
            wanted.append((key, source, first, last))
    order = np.random.default_rng(settings.shuffle_seed).permutation(len(wanted))
    clips = tuple(
        PlannedClip(key, source, first, last, place // settings.clips_per_shard)
        for place, (key, source, first, last) in enumerate(wanted[where] for where in order)
    )
    return Plan(clips, tuple(rejects), tuple(listing.label_names), tuple(asked))


def plan_table(plan: Plan) -> pa.Table:
    """Return plan.parquet: one row per planned clip, in stored order. Its metadata contain CUT_VERSION."""
    table = pa.table(
        {
            "key": [clip.key for clip in plan.clips],
            "source": [clip.source.path for clip in plan.clips],
            "start_s": pa.array([clip.start_s for clip in plan.clips], pa.float64()),
            "end_s": pa.array([clip.end_s for clip in plan.clips], pa.float64()),
            "shard": pa.array([clip.shard for clip in plan.clips], pa.int32()),
        }
    )
    return table.replace_schema_metadata({"cut_version": str(CUT_VERSION)})
