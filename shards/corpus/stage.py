"""The shard stage as one call."""

import contextlib
import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc

from shards.corpus.append import appended, with_unreadable
from shards.corpus.generation import bring_back, can_be_appended_to, generation_to_keep
from shards.corpus.keep import generation_summary, keep_shards, read_before
from shards.corpus.known import known_sources, survey_notes
from shards.corpus.listing import check_places, list_columns
from shards.corpus.plan import STAGE_VERSION, corpus_fingerprint, make_plan
from shards.corpus.seen import digest_of_sources, store_digest
from shards.corpus.survey import forget_survey, listed_files, read_survey, recall, survey
from shards.corpus.write import accepted_of, digest_of_keys, files_of, stored_tars, write_corpus
from shards.errors import ConfigError, StageError
from shards.objects.bucket import Bucket
from shards.objects.generation import Overtaken, point_at, write_generation
from shards.objects.mirror import catch_up, mirror
from shards.progress import Progress, silent
from shards.settings import CorpusSettings, is_url, stored_part
from shards.sources.look import PROBE_VERSION, UNREADABLE
from shards.sources.source import Listing
from shards.sources.split import check_learn_splits
from shards.sources.surveyed import Survey, Surveyed
from shards.store.build import (
    Identity,
    Outcome,
    Record,
    build,
    machine_trouble_explained,
    manifest_of,
    record_of,
    reusable,
)
from shards.store.executor import IN_PROCESS, Executor
from shards.store.fault import fault_point
from shards.store.lock import exclusive
from shards.store.manifest import Manifest, missing_files, read_manifest
from shards.store.node import Node
from shards.store.stage import ConfigT, RunT, Stage, builds_itself, reads_no_stage


def shard(
    corpus: Path,
    videos: Path | None,
    settings: CorpusSettings,
    progress: Progress = silent,
    force: bool = False,
    executor: Executor = IN_PROCESS,
    logs: Path | None = None,
    name: str = "shard",
) -> Record:
    """Build the directory `corpus` with the clips of `videos` (a folder, a manifest, or a data set in a layout).

    `executor` has files surveyed and clips cut. logs: the folder for output of its workers; by default beside `corpus`.
    name: of the node, for messages and the names of these logs.

    If `settings.path` is in an object store, the tars are put there, and are not in `corpus`; its other files are in
    both. What another coordinator has written there is used. See shards/objects/generation.py.

    With `settings.append`, a committed corpus with the same settings keeps its shards: see `shards.corpus.append`.

    Without `videos`, or if they do not exist here, a committed corpus with the same settings is used unchanged. If
    `settings.path` is in an object store, `corpus` then becomes the directory of the corpus there, without its tars;
    without `videos`, its settings do not matter.

    Raises:
        ConfigError: there is nothing to make a corpus from, the corpus would replace the videos, no source has one
            of the splits to learn from, or labels of clips that are kept have changed.
        StageError: too many inputs were rejected, an append would mask too many clips, a source disappeared during
            the work, or files of the corpus are gone and there are no videos.
        Busy: another process is building the same corpus.
    """
    if is_url(settings.path) and (videos is None or not videos.exists()):
        return mirror(corpus, settings.path, progress, force, settings=stored_part(settings) if videos else None)
    manifest = bring_back(corpus, settings) if settings.append and not force else read_manifest(corpus)
    if videos is None or not videos.exists():
        if manifest is not None and (videos is None or manifest.settings == stored_part(settings)):
            return _as_it_is(corpus, manifest)
        what = "corpus.videos is not set" if videos is None else f"corpus.videos: {videos} does not exist"
        raise ConfigError(f"{what}, and {corpus} holds no finished corpus with these settings.")
    check_places(corpus, videos)
    started = datetime.datetime.now(datetime.UTC)
    current = catch_up(corpus, settings.path, progress, force) if is_url(settings.path) else None
    manifest = read_manifest(corpus)
    digest = digest_of_sources(corpus, videos, settings)
    listing = list_columns(videos, settings)
    check_learn_splits(settings.learn_splits, {source.split for source in listing.sources}, str(videos))
    logs = logs or corpus.with_name("logs")
    surveyed = _surveyed(corpus, listing, settings, progress, force, executor, logs, name)
    unreadable = {each.path: each.unreadable_at for each in surveyed.files() if each.reason.startswith(UNREADABLE)}
    # What is set aside is an earlier generation: to append keeps what later ones have.
    grows = settings.append and can_be_appended_to(manifest, settings)
    if grows and not force:
        surveyed = with_unreadable(surveyed, known_sources(corpus, settings.modalities))
    identity = Identity(
        stage="shard",
        version=STAGE_VERSION,
        fingerprint=corpus_fingerprint(settings, listing, surveyed),
        settings=stored_part(settings),
    )

    def work(out: Path) -> Outcome:
        plan, keep = make_plan(settings, listing, surveyed), None
        wanted = identity.fingerprint
        kept = generation_to_keep(corpus, settings, wanted) if settings.append and not force else None
        before = read_before(corpus, kept, settings) if kept is not None else None
        if before is not None:
            plan = appended(before, plan, surveyed, settings)
            keep = partial(keep_shards, before, plan, out)
        summary = write_corpus(listing.root, plan, surveyed, settings, out, progress, executor, logs, name, keep)
        if before is not None:
            summary |= generation_summary(before, plan, digest_of_keys(out, plan))
        else:
            summary["accepted"] = accepted_of(out, plan, corpus, wanted)
        outcome = Outcome(summary["clips"], sum(summary["rejects"].values()), summary, files_of(plan, settings))
        if is_url(settings.path):
            there = manifest_of(identity, outcome, started)
            write_generation(Bucket(settings.path), out, there, stored_tars(out, plan), current)
        return outcome

    try:
        record = build(corpus, identity, work, force, restored=not grows)
    except Overtaken:
        record = mirror(corpus, settings.path, progress)
    if record.reused and is_url(settings.path):
        point_at(corpus, identity.fingerprint)
    if record.reused:
        forget_notes(corpus, settings)
    else:
        fault_point("before forget_notes")
        survey_notes(corpus, settings.modalities).unlink(missing_ok=True)  # sources.parquet now has the same data.
    store_digest(corpus, videos, settings, digest, identity.fingerprint, listing.root, unreadable)
    return record


def _surveyed(
    corpus: Path,
    listing: Listing,
    settings: CorpusSettings,
    progress: Progress,
    force: bool,
    executor: Executor,
    logs: Path,
    name: str,
) -> Survey:
    """Return the survey of every source: from the corpus and the notes if still valid, else from the files."""
    notes = survey_notes(corpus, settings.modalities)

    def known() -> Iterator[Surveyed]:
        return iter(()) if force else known_sources(corpus, settings.modalities)

    with machine_trouble_explained("shard", notes):
        if not force and read_manifest(corpus) is not None:
            surveyed, unknown = recall(listing, known(), notes, settings)
            if not len(unknown):
                surveyed = surveyed.select(listed_files(listing))
                old = pc.min(surveyed.table["probe_version"]).as_py() < PROBE_VERSION
                # A finished corpus stays fresh, even if an earlier version probed its files.
                if not old or reusable(corpus, corpus_fingerprint(settings, listing, surveyed)):
                    return surveyed
        with exclusive(corpus):  # Two processes started at once would both read all files.
            if force:
                forget_survey(notes, settings)
            return survey(listing, known(), notes, settings, progress, executor, logs, name)


def forget_notes(corpus: Path, settings: CorpusSettings) -> None:
    """Remove notes of a survey that only repeat a committed corpus, left by a kill before their removal."""
    notes = survey_notes(corpus, settings.modalities)
    if not notes.exists():
        return
    noted = set({entry.path: entry for entry in read_survey(notes)}.values())
    for entry in known_sources(corpus, settings.modalities):
        noted.discard(entry)
    if not noted:
        with contextlib.suppress(OSError):  # In a folder that is not writable they do no harm.
            notes.unlink(missing_ok=True)


def _as_it_is(corpus: Path, manifest: Manifest) -> Record:
    if lost := missing_files(corpus, manifest):
        raise StageError(
            f"{corpus}: {', '.join(lost[:3])} missing or cut off, and there are no videos to rebuild the corpus from. "
            "Bring the files back from a copy, or set corpus.videos."
        )
    return record_of(corpus, manifest, reused=True)


@dataclass(frozen=True)
class StoredSettings:
    """The part of the configuration for making clips."""

    corpus: CorpusSettings

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide the clips."""
        return stored_part(self.corpus)


def clip_stage(
    name: str,
    summary: str,
    of: Literal["name", None],
    nodes: Callable[[ConfigT, int | None], list[Node]],
    settings: Callable[[ConfigT, Node], CorpusSettings],
    stored_from: Callable[[RunT, Node], tuple[Path, Path | None, CorpusSettings]],
    logs: Callable[[RunT], Path],
) -> Stage[ConfigT, RunT, StoredSettings]:
    """Return the stage that makes directories of clips.

    `stored_from` returns, for a node, the path of its directory, the path of the videos, and the settings; `logs` the
    folder for output of workers.
    """

    def build(run: RunT, node: Node, progress: Progress, force: bool, executor: Executor) -> Record:
        return shard(*stored_from(run, node), progress, force, executor, logs(run), str(node))

    return Stage(
        name=name,
        version=STAGE_VERSION,
        summary=summary,
        unit="clip",
        folder="",
        of=of,
        each_round=False,
        library="torch",
        modules=("shards.corpus.stage", "webdataset.writer"),
        nodes=nodes,
        inputs=reads_no_stage,
        settings=lambda config, node: StoredSettings(settings(config, node)),
        work=builds_itself,
        build=build,
    )
