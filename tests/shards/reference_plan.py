"""The plan of a corpus with an object for each clip, as it was first written: what the columns must give."""

import math
from collections.abc import Mapping

import numpy as np

from shards.corpus.plan import PlannedClip, clip_key, spans
from shards.media.limits import too_much
from shards.reject import Kind, Reject
from shards.settings import CorpusSettings
from shards.sources.coverage import SLACK_S
from shards.sources.look import PROBE_VERSION
from shards.sources.source import Listing, Source
from shards.sources.surveyed import Surveyed


def reference_plan(
    settings: CorpusSettings, listing: Listing, surveyed: Mapping[str, Surveyed]
) -> tuple[list[PlannedClip], list[Reject], dict[str, list[list[float]]]]:
    """Clips in stored order, rejects, and the requested spans of each file."""
    wanted: list[tuple[str, Source, float, float]] = []
    asked: dict[str, list[list[float]]] = {}
    rejects = list(listing.rejects)
    keys: set[str] = set()
    what = "video" if "video" in settings.modalities else "sound"
    for source in listing.sources:
        entry = surveyed[source.path]
        start_s = source.start_s or 0.0
        wanted_s = source.end_s if source.end_s is not None else math.inf
        reach_s, far_s = (min(wanted_s, at_s) for at_s in (entry.reach_s, max(entry.reach_s, entry.last_packet_s)))
        if far_s > start_s and entry.probe_version >= PROBE_VERSION:
            asked.setdefault(source.path, []).append([start_s, far_s])
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
        if reach_s - end_s > SLACK_S:
            reason = f"the sound goes on for {reach_s - end_s:.2f} s after the picture ends"
            rejects.append(Reject(source.path, "plan", "no_picture", reason, "", end_s, reach_s))
        cuts, lost = spans(start_s, end_s, settings.clip_seconds, settings.min_seconds)
        if not cuts:
            lost = end_s - start_s
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
    clips = [
        PlannedClip(key, source.path, first, last, place // settings.clips_per_shard, source.split, source.labels)
        for place, (key, source, first, last) in enumerate(wanted[where] for where in order)
    ]
    return clips, rejects, asked
