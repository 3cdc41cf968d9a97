"""Repair corpora of earlier versions: find the damaged sources, and cut only their shards again."""

from collections.abc import Collection
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from shards.corpus.generation import earlier_generations
from shards.corpus.keep import keep_others
from shards.corpus.known import known_sources, survey_notes
from shards.corpus.listing import list_corpus
from shards.corpus.plan import Plan, clip_table, corpus_fingerprint, make_plan
from shards.corpus.survey import listed_files, still_holds, survey
from shards.corpus.write import accepted_of, files_of, write_corpus
from shards.errors import ConfigError, StageError
from shards.progress import Progress, silent
from shards.settings import CorpusSettings, is_url, stored_part
from shards.sources.look import damage_of
from shards.sources.surveyed import survey_columns
from shards.store.build import Identity, Outcome, Record, build, record_of
from shards.store.executor import IN_PROCESS
from shards.store.lock import exclusive
from shards.store.manifest import Manifest, read_manifest
from shards.store.parquet import read_parquet


def damaged_sources(corpus: Path) -> dict[str, str]:
    """Return the sources of a committed corpus that an earlier version damaged, and the damage of each.

    The result is empty if there is no corpus or its sources.parquet cannot be read; other checks report that.
    """
    manifest = read_manifest(corpus)
    if manifest is None:
        return {}
    known = known_sources(corpus, manifest.settings.get("modalities", ("video", "audio")))
    return {entry.path: damage for entry in known if (damage := damage_of(entry))}


def recut(
    corpus: Path,
    videos: Path | None,
    settings: CorpusSettings,
    names: Collection[str] | None = None,
    progress: Progress = silent,
) -> Record:
    """Cut the shards with clips of some sources again, and keep all others. `names`: None for the damaged sources.

    Clips of these sources that were not planned before go into new shards at the end. The corpus keeps its fingerprint;
    dependent stages become stale. A killed call begins again with the first of these shards.

    Raises:
        ConfigError: there is no such corpus, it was appended to or is in an object store, its videos do not exist, or
            no source has one of the names.
        StageError: the videos or the settings have changed since it was made, another process has replaced it
            meanwhile, or see write_corpus.
        Busy: another process is building it.
    """
    if is_url(settings.path):
        raise ConfigError(
            f"corpus.path ({settings.path}) is in an object store, where single shards are not cut again. Cut all "
            "clips again: xdc stage shard RUN --force"
        )
    manifest = read_manifest(corpus)
    if manifest is None:
        raise ConfigError(f"{corpus} holds no finished corpus. Make it: xdc stage shard RUN")
    names = set(damaged_sources(corpus) if names is None else names)
    if not names:
        return record_of(corpus, manifest, reused=True)
    if earlier_generations(manifest):
        raise ConfigError(
            f"{corpus} was appended to (corpus.append), and single shards of it cannot be cut again. Cut all clips "
            "again: xdc stage shard RUN --force"
        )
    if videos is None or not videos.exists():
        raise ConfigError(
            f"{corpus}: to cut {', '.join(sorted(names)[:3])} again its video is needed, and corpus.videos "
            f"({videos or 'not set'}) is not there. Bring it back, or correct corpus.videos."
        )
    listing = list_corpus(videos, settings.label_from_folder, settings.layout)
    if unknown := names - {source.path for source in listing.sources}:
        raise ConfigError(f"{videos} has no source {min(unknown)!r}. sources.parquet of {corpus} has their names.")
    known = {entry.path: entry for entry in known_sources(corpus, settings.modalities)}
    again = replace(listing, sources=tuple(source for source in listing.sources if source.path in names))
    notes, logs = survey_notes(corpus, settings.modalities), corpus.with_name("logs")
    with exclusive(corpus):
        looked_at = survey(again, (), notes, settings, progress)
    changed = [
        source.path
        for source in listing.sources
        if source.path not in known
        or (source.path not in names and not still_holds(listing.root, known[source.path]))
        or (source.path in names and looked_at[source.path].sha256 != known[source.path].sha256)
    ]
    surveyed = survey_columns(chain(known.values(), looked_at.files()))
    if changed or corpus_fingerprint(settings, listing, surveyed) != manifest.fingerprint:
        what = f"the source {changed[0]} has changed" if changed else "sources or settings have changed"
        raise StageError(f"{corpus}: {what} since it was made. Make it as a whole: xdc stage shard RUN")
    surveyed = surveyed.select(listed_files(listing))
    plan = _merged(corpus, make_plan(settings, listing, surveyed), settings)

    def work(out: Path) -> Outcome:
        if read_manifest(corpus) != manifest:
            raise StageError(f"{corpus} was replaced by another process meanwhile. Nothing is lost: run this again.")
        keep_others(corpus, manifest, plan, out, names)
        summary = write_corpus(listing.root, plan, surveyed, settings, out, progress, IN_PROCESS, logs, "shard")
        summary["accepted"] = accepted_of(out, plan, corpus, manifest.fingerprint)
        return Outcome(summary["clips"], sum(summary["rejects"].values()), summary, files_of(plan, settings))

    record = build(corpus, _identity(manifest, settings), work, force=True)
    notes.unlink(missing_ok=True)
    return record


def _identity(manifest: Manifest, settings: CorpusSettings) -> Identity:
    return Identity(
        stage=manifest.stage,
        version=manifest.version,
        fingerprint=manifest.fingerprint,
        settings=stored_part(settings),
    )


def _merged(corpus: Path, plan: Plan, settings: CorpusSettings) -> Plan:
    """Return the clips of a new plan in the shards of the old plan, and additional clips in new shards."""
    table = read_parquet(corpus / "plan.parquet", "shard", ["key", "shard"])
    shards = dict(zip(table["key"].to_pylist(), table["shard"].to_pylist(), strict=True))
    keys = clip_table(plan, slice(None))["key"].to_pylist()
    places = {key: place for place, key in enumerate(keys)}
    kept = [(places[key], shard) for key, shard in shards.items() if key in places]
    first = 1 + max(shards.values(), default=-1)
    new = [place for place, key in enumerate(keys) if key not in shards]
    kept += [(place, first + number // settings.clips_per_shard) for number, place in enumerate(new)]
    order = np.array([place for place, _ in kept], np.int64)
    columns = {name: getattr(plan, name)[order] for name in ("source", "start_s", "end_s")}
    return replace(plan, **columns, shard=np.array([shard for _, shard in kept], np.int32))
