"""The shards of a corpus that stay when clips are appended or cut again: their files are linked, and not read."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.corpus.cut import TAR, describe
from shards.corpus.generation import GENERATIONS, earlier_generations, generation_of
from shards.corpus.index import (
    LATER,
    Mask,
    index_name,
    index_path,
    read_masks,
    read_stored_index,
    shard_name,
    with_later_columns,
    write_masks,
)
from shards.corpus.known import known_sources
from shards.corpus.plan import Plan, clip_table, planned_clips
from shards.errors import StageError
from shards.objects.tars import tars_elsewhere
from shards.reject import Reject, reject_of
from shards.settings import CorpusSettings
from shards.sources.surveyed import Survey, survey_columns
from shards.store.checked_read import read_stored_json
from shards.store.files import INDEX, link_or_copy, part_among
from shards.store.manifest import Manifest, fingerprint, read_manifest
from shards.store.parquet import read_parquet, write_parquet
from shards.store.receipt import new_shard
from shards.store.units import begin_units


@dataclass(frozen=True, eq=False)
class Before:
    """A committed corpus to which clips are appended.

    clips: key, source, end_s and shard of its plan, in order. files: the survey of its sources. numbers: int64 [clips],
    the row of each clip's source in `files`, -1 for none.
    """

    corpus: Path
    manifest: Manifest
    clips: pa.Table
    files: Survey
    numbers: np.ndarray

    @property
    def number(self) -> int:
        """Return the number of the generation that is made by the append."""
        return 1 + len(earlier_generations(self.manifest))

    def contents(self, places: slice) -> list[str]:
        """Return the sha256 of the sources of some clips."""
        numbers = pa.array(self.numbers[places], mask=self.numbers[places] < 0)
        found: list[str] = self.files.table["sha256"].take(numbers).fill_null("").to_pylist()
        return found


def read_before(corpus: Path, manifest: Manifest, settings: CorpusSettings) -> Before:
    """Read what is known of a committed corpus's clips. Raises StageError if a file of it is damaged."""
    clips = read_parquet(corpus / "plan.parquet", "shard", ["key", "source", "end_s", "shard"])
    files = survey_columns(known_sources(corpus, settings.modalities))
    if manifest.rows and not len(files):
        raise StageError(
            f"{corpus}/sources.parquet cannot be read, so it is not known which sources have changed. Bring it back "
            "from a copy, or cut all clips again: xdc stage shard RUN --force"
        )
    found = pc.index_in(clips["source"].cast(pa.large_string()), value_set=files.table["path"])
    return Before(corpus, manifest, clips, files, found.fill_null(-1).to_numpy().astype(np.int64))


def keep_shards(before: Before, plan: Plan, out: Path) -> None:
    """Store the shards of the committed corpus in `out`, with receipts and the keys of their masked clips.

    Its files are linked, and not read: their sha256 are those of its manifest.
    """
    stored = begin_units(out, [shard_name(number) for number in range(plan.shards)])
    bounds = np.searchsorted(before.clips["shard"].to_numpy(), np.arange(plan.kept_shards + 1)).tolist()
    for number in range(plan.kept_shards):
        if (shard := shard_name(number)) not in stored:
            _keep_shard(before, slice(bounds[number], bounds[number + 1]), plan, out, shard)
    if read_manifest(before.corpus) != before.manifest:
        raise StageError(f"{before.corpus} was replaced by another process meanwhile. Nothing is lost: run this again.")


def _keep_shard(before: Before, were: slice, plan: Plan, out: Path, shard: str) -> None:
    """Store a shard. were: the places of its clips in the plan before."""
    corpus, manifest = before.corpus, before.manifest
    clips = list(planned_clips(clip_table(plan, plan.places(int(shard)))))
    planned = {clip.key for clip in clips}
    rejects = [reject_of(entry) for entry in read_stored_json(corpus / f"{shard}.rejects.json", "shard")]
    index = read_stored_index(corpus, shard)
    with new_shard(out, shard, _known_files(manifest, shard, index)) as new:
        _link_shard(corpus, shard, index, new.folder)
        write_masks(new.folder, shard, _masks(before, were, shard, planned))
        live = index.filter(pc.is_in(index["key"], pa.array(sorted(planned), index["key"].type)))
        describe(new, shard, sorted(planned), live, [each for each in rejects if _is_of(each, clips)])
        new.notes["masked"] = len(index) - len(live)
        if (elsewhere := tars_elsewhere(corpus)) is not None:
            new.notes[TAR] = elsewhere["tars"][f"{shard}.tar"]


def keep_others(corpus: Path, manifest: Manifest, plan: Plan, out: Path, names: Collection[str]) -> None:
    """Store the shards of a committed corpus that have no clips of the sources `names` in `out`, with receipts.

    Their files are linked, and not read.
    """
    table = read_parquet(corpus / "plan.parquet", "shard", ["source", "shard"])
    touched = {row["shard"] for row in table.to_pylist() if row["source"] in names}
    begin_units(out, ())
    for number in sorted(set(table["shard"].to_pylist()) - touched):
        shard = shard_name(number)
        rejects = [reject_of(entry) for entry in read_stored_json(corpus / f"{shard}.rejects.json", "shard")]
        planned = clip_table(plan, plan.places(number))["key"].to_pylist()
        index = read_stored_index(corpus, shard)
        with new_shard(out, shard, _known_files(manifest, shard, index)) as new:
            _link_shard(corpus, shard, index, new.folder)
            describe(new, shard, planned, index, rejects)


def _known_files(manifest: Manifest, shard: str, index: pa.Table) -> dict[str, tuple[int, str]]:
    """Return size and sha256 of the files of a shard that `_link_shard` links. index: of the shard."""
    names = {f"{shard}.tar": f"{shard}.tar", f"{shard}.rejects.json": f"{shard}.rejects.json"}
    if _is_present(index):
        names[index_name(shard)] = str(part_among(manifest.files, shard, INDEX))
    return {name: (entry.size, entry.sha256) for name, old in names.items() if (entry := manifest.files.get(old))}


def _link_shard(corpus: Path, shard: str, index: pa.Table, folder: Path) -> None:
    """Link the files of a shard into another folder; a tar in an object store stays there.

    An index of an earlier version gets the columns that it lacks, for all indices of a corpus have the same columns.
    """
    for name in (f"{shard}.tar", f"{shard}.rejects.json")[tars_elsewhere(corpus) is not None :]:
        link_or_copy(corpus / name, folder / name)
    target = folder / index_name(shard)
    if _is_present(index):
        target.parent.mkdir()
        link_or_copy(index_path(corpus, shard), target)
    else:
        write_parquet(target, with_later_columns(index))


def _is_present(index: pa.Table) -> bool:
    return {field.name for field in LATER} <= {*index.column_names}


def _masks(before: Before, were: slice, shard: str, planned: set[str]) -> dict[str, Mask]:
    """Return the masks of a shard after the append. planned: the keys of its clips that are not to be masked."""
    masks = read_masks(before.corpus, shard)
    for key, mask in masks.items():
        if mask.holds() and key in planned:
            masks[key] = mask._replace(since=(*mask.since, before.number))
    rows = before.clips.slice(were.start, were.stop - were.start)
    for key, end_s, sha256 in zip(
        rows["key"].to_pylist(), rows["end_s"].to_pylist(), before.contents(were), strict=True
    ):
        if key not in planned:
            since = masks[key].since if key in masks else ()
            masks[key] = Mask((*since, before.number), end_s, sha256)
    return masks


def _is_of(reject: Reject, clips: list[Any]) -> bool:
    """Return whether a reject is one of these clips, or a part of one."""
    if reject.key:
        return any(clip.key == reject.key for clip in clips)
    start_s = reject.start_s or 0.0
    return any(clip.source == reject.source and clip.start_s <= start_s < clip.end_s for clip in clips)


def generation_summary(before: Before, plan: Plan, accepted: str) -> dict[str, Any]:
    """Return what the summary of a corpus says of its generations, and the digest of its accepted clips.

    accepted: the digest of its keys. Other stages use both: the same clips in other shards are another corpus.
    """
    was = generation_of(before.corpus, before.manifest)
    sizes = np.bincount(plan.shard, minlength=plan.shards).tolist()
    entry = {"read_as": was.read_as, "shards": was.shards, "clips": was.clips}
    earlier = [*before.manifest.summary.get(GENERATIONS, ()), entry]
    return {GENERATIONS: earlier, "accepted": fingerprint([was.read_as, accepted, sizes])}
