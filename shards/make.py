"""The shard stage as one call, and how a corpus compares with the sources it was made from."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from shards.commit import read_manifest
from shards.corpus import Listing, list_corpus
from shards.errors import ConfigError
from shards.plan import STAGE_VERSION, corpus_fingerprint, make_plan
from shards.progress import Progress, silent
from shards.settings import CorpusSettings, stored_part
from shards.stage import Identity, Outcome, Record, build, record_of
from shards.survey import Surveyed, stat_of, survey
from shards.write import core_count, write_corpus


def shard(
    corpus: Path,
    videos: Path | None,
    settings: CorpusSettings,
    progress: Progress = silent,
    force: bool = False,
) -> Record:
    """Have the directory `corpus` hold the clips of `videos` (a folder or a manifest).

    With no `videos`, or when they are no longer there, a committed corpus with the same settings is taken as it is.

    Raises:
        ConfigError: there is nothing to make a corpus from.
        StageError: too many inputs were rejected.
    """
    manifest = read_manifest(corpus)
    if videos is None or not videos.exists():
        if manifest is not None and (videos is None or manifest.settings == stored_part(settings)):
            return record_of(corpus, manifest, reused=True)
        what = "corpus.videos is not set" if videos is None else f"corpus.videos: {videos} does not exist"
        raise ConfigError(f"{what}, and {corpus} holds no finished corpus with these settings.")
    listing = list_corpus(videos, settings.label_from_folder)
    notes = corpus.with_name(f".{corpus.name}.survey.jsonl")
    workers = settings.workers or core_count()
    found = survey(listing, known_sources(corpus), notes, workers, settings.clip_timeout_s, progress)
    identity = Identity(
        stage="shard",
        version=STAGE_VERSION,
        fingerprint=corpus_fingerprint(settings, listing, found),
        settings=stored_part(settings),
    )

    def work(out: Path) -> Outcome:
        plan = make_plan(settings, listing, found)
        summary = write_corpus(listing.root, plan, found, settings, out, progress)
        return Outcome(summary["clips"], sum(summary["rejects"].values()), summary)

    record = build(corpus, identity, work, force)
    notes.unlink(missing_ok=True)  # From here on sources.parquet tells the same.
    return record


def known_sources(corpus: Path) -> Iterator[Surveyed]:
    """The survey that stands in a committed corpus."""
    if read_manifest(corpus) is not None:
        for row in pq.read_table(corpus / "sources.parquet").to_pylist():
            yield Surveyed(**row)


def corpus_fingerprint_now(corpus: Path, videos: Path | None, settings: CorpusSettings) -> tuple[str | None, str]:
    """The fingerprint that the corpus would get now, without reading any video, and why it is not known.

    Returns (fingerprint, ""), or (None, reason) when files are new or changed and would have to be read first.

    Raises:
        ConfigError: the manifest or folder of videos cannot be listed.
    """
    manifest = read_manifest(corpus)
    if videos is None or not videos.exists():
        if manifest is None:
            return None, "nothing to make it from"
        if videos is None or manifest.settings == stored_part(settings):
            return manifest.fingerprint, ""
        return None, f"{videos} is gone, and the settings changed"
    listing: Listing = list_corpus(videos, settings.label_from_folder)
    known = {entry.path: entry for entry in known_sources(corpus)}
    changed = [name for name in sorted({source.path for source in listing.sources}) if not _same(listing, known, name)]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return None, f"new or changed source {changed[0]}{more}"
    return corpus_fingerprint(settings, listing, known), ""


def _same(listing: Listing, known: dict[str, Surveyed], name: str) -> bool:
    return name in known and (known[name].size, known[name].mtime_ns) == stat_of(listing.root / name)
