"""Append to a corpus: new clips go into new shards, shards that exist are kept, clips of removed sources are masked.

Every append makes a new generation of the corpus: a directory of its own, which shares the files of the kept shards
with the one before by hard links.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.corpus.cut import TAR, describe
from shards.corpus.index import (
    LATER,
    label_columns,
    masked_file,
    read_index,
    read_stored_index,
    shard_name,
    shard_names,
    with_later_columns,
)
from shards.corpus.known import known_sources
from shards.corpus.plan import STAGE_VERSION, Plan, clip_table, planned_clips
from shards.corpus.write import GENERATIONS, KEPT_FROM
from shards.errors import ConfigError, StageError
from shards.objects.tars import tars_elsewhere
from shards.reject import Reject, reject_of
from shards.settings import CorpusSettings, stored_part
from shards.sources.columns import SourceColumns
from shards.sources.split import split_name
from shards.sources.surveyed import Survey, survey_columns
from shards.store.checked_read import read_stored_json
from shards.store.commit import STALE
from shards.store.files import link_or_copy, write_json
from shards.store.manifest import Manifest, fingerprint, missing_files, read_manifest
from shards.store.parquet import read_parquet, read_schema, write_parquet
from shards.store.receipt import new_shard
from shards.store.units import begin_units

NAMED = 3  # Clips that an error names.


@dataclass(frozen=True)
class Generation:
    """A state of a corpus that was appended to.

    read_as: its fingerprint as an input of other stages. shards, clips: how many it had, without masked clips.
    """

    read_as: str
    shards: int
    clips: int


def earlier_generations(manifest: Manifest | None) -> list[Generation]:
    """Return the generations before the present one, oldest first; [] if the corpus was never appended to."""
    return [Generation(**entry) for entry in manifest.summary.get(GENERATIONS, ())] if manifest else []


def read_as(manifest: Manifest) -> str:
    """Return the fingerprint of a corpus as an input of other stages: it depends on the accepted clips, too.

    A corpus older than the digest of its keys has its own fingerprint.
    """
    accepted = manifest.summary.get("accepted")
    return fingerprint([manifest.fingerprint, accepted]) if accepted else manifest.fingerprint


def content_of(corpus: Path, manifest: Manifest) -> tuple[str, dict[str, str]]:
    """Return what other stages read of a committed corpus: its fingerprint as an input, and the sha256 of its tars.

    It is the same before and after columns are added to the index of the same clips.
    """
    elsewhere = tars_elsewhere(corpus)
    if elsewhere is not None:
        return read_as(manifest), {name: entry["sha256"] for name, entry in elsewhere["tars"].items()}
    return read_as(manifest), {name: entry.sha256 for name, entry in manifest.files.items() if name.endswith(".tar")}


def can_be_appended_to(manifest: Manifest | None, settings: CorpusSettings) -> bool:
    """Return whether a committed corpus has these settings, so that clips may be appended to it."""
    return manifest is not None and (manifest.version, manifest.settings) == (STAGE_VERSION, stored_part(settings))


def generation_of(corpus: Path, manifest: Manifest) -> Generation:
    """Return the present generation of a committed corpus."""
    return Generation(read_as(manifest), len(shard_names(corpus)), manifest.rows)


def generation_to_keep(corpus: Path, settings: CorpusSettings, wanted: str, out: Path) -> tuple[Path, Manifest] | None:
    """Return the directory and manifest of the corpus to which clips are appended to get the fingerprint `wanted`.

    It is the committed one, or, after a kill during the commit of the partial directory `out`, the one set aside.
    None if there is none with these settings, or if only one that was never appended to is to be made once more.

    Raises:
        StageError: files of the corpus are missing. Cut again as a whole, it would have other shards.
    """
    directory, manifest = corpus, read_manifest(corpus)
    if manifest is None and (begun := _kept_from(out)):
        for aside in sorted((corpus.parent / STALE).glob(f"{corpus.name}-*")):
            found = read_manifest(aside)
            if found is not None and read_as(found) == begun:
                directory, manifest = aside, found
    if manifest is None or not can_be_appended_to(manifest, settings):
        return None
    if manifest.fingerprint == wanted and not earlier_generations(manifest):
        return None
    if lost := missing_files(directory, manifest):
        raise StageError(
            f"{directory}: {', '.join(lost[:NAMED])} missing or cut off, and corpus.append keeps shards that exist. "
            "Bring the files back from a copy, or cut all again: xdc stage shard RUN --force"
        )
    return directory, manifest


def _kept_from(out: Path) -> str:
    """Return which generation a partial directory keeps shards of; "" for none."""
    path = out / "plan.parquet"
    marks = read_schema(path, "shard").metadata if path.exists() else None
    return (marks or {}).get(KEPT_FROM.encode(), b"").decode()


def appended(corpus: Path, manifest: Manifest, plan: Plan, surveyed: Survey, settings: CorpusSettings) -> Plan:
    """Return the clips of a plan of all sources, those of the committed corpus in its shards, and others in new ones.

    A clip is the same if its key and end are, and its file has the same content. New clips are shuffled among
    themselves, with a seed from `shuffle_seed` and the number of earlier generations.

    Raises:
        ConfigError: clips of the corpus have another split or other labels now, or new clips have a column of labels
            that the corpus does not have.
        StageError: a file of the corpus is damaged.
    """
    before = read_parquet(corpus / "plan.parquet", "shard", ["key", "end_s", "shard"])
    place = _places_before(plan, before, _unchanged(corpus, manifest, plan, surveyed, settings))
    kept, new = np.flatnonzero(place >= 0), np.flatnonzero(place < 0)
    kept = kept[np.argsort(place[kept])]
    new = new[np.lexsort((plan.start_s[new], plan.source[new]))]
    number = 1 + len(earlier_generations(manifest))
    new = new[np.random.default_rng([settings.shuffle_seed, number]).permutation(len(new))]
    first, order = len(shard_names(corpus)), np.concatenate([kept, new])
    shards = before["shard"].to_numpy()[place[kept]], first + np.arange(len(new)) // settings.clips_per_shard
    result = replace(
        plan,
        sources=_with_columns(plan.sources, label_columns(corpus)),
        source=plan.source[order],
        start_s=plan.start_s[order],
        end_s=plan.end_s[order],
        shard=np.concatenate(shards).astype(np.int32),
        kept_shards=first,
        kept_from=read_as(manifest),
    )
    _check_columns(corpus, result)
    _check_labels(corpus, result)
    return result


def _places_before(plan: Plan, before: pa.Table, unchanged: np.ndarray) -> np.ndarray:
    """Return int64 [clips]: the row of each clip in an earlier plan, or -1. unchanged: bool [sources]."""
    ids = pa.chunked_array([_ids(clip_table(plan, plan.places(n))) for n in range(plan.shards)], pa.binary(16))
    found = pc.index_in(ids, value_set=_ids(before)).fill_null(-1).to_numpy().astype(np.int64)
    return np.where(unchanged[plan.source], found, -1)


def _ids(clips: pa.Table) -> pa.Array:
    """Return 16 bytes for each clip, from its key and its end."""
    pairs = zip(clips["key"].to_pylist(), clips["end_s"].to_pylist(), strict=True)
    return pa.array(
        [hashlib.blake2b(f"{key} {end_s!r}".encode(), digest_size=16).digest() for key, end_s in pairs], pa.binary(16)
    )


def _unchanged(corpus: Path, manifest: Manifest, plan: Plan, surveyed: Survey, settings: CorpusSettings) -> np.ndarray:
    """Return bool [sources]: whether the file of each source has the content that it had for the committed corpus."""
    before = survey_columns(known_sources(corpus, settings.modalities))
    if manifest.rows and not len(before):
        raise StageError(
            f"{corpus}/sources.parquet cannot be read, so it is not known which sources have changed. Bring it back "
            "from a copy, or cut all clips again: xdc stage shard RUN --force"
        )
    found = pc.index_in(surveyed.table["path"], value_set=before.table["path"])
    same = pc.equal(before.table["sha256"].take(found), surveyed.table["sha256"]).fill_null(False).to_numpy()
    of_sources: np.ndarray = same[surveyed.numbers(plan.sources.table["path"])]
    return of_sources


def _with_columns(sources: SourceColumns, names: list[str]) -> SourceColumns:
    """Return the sources with all of these columns of labels, so that all indices have the same columns."""
    table = sources.table
    for name in names:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.dictionary(pa.int32(), pa.string())))
    return SourceColumns(table)


def _check_columns(corpus: Path, plan: Plan) -> None:
    more = sorted({*plan.sources.label_names}.difference(label_columns(corpus)))
    if more and plan.kept_shards:
        raise ConfigError(
            f"corpus.videos has labels in {', '.join(more)}, and {corpus} has no such column. corpus.append changes no "
            "shard that exists: take the column out, or cut all clips again: xdc stage shard RUN --force"
        )


def _check_labels(corpus: Path, plan: Plan) -> None:
    """Raise ConfigError if clips of kept shards are to have another split, or other labels."""
    changed, count = list[str](), 0
    columns = ["split", *plan.sources.label_names]
    for number in range(plan.kept_shards):
        now = {clip.key: clip for clip in planned_clips(clip_table(plan, plan.places(number)))}
        for row in read_index(corpus, shard_name(number), ["key", *columns]).to_pylist():
            clip = now.get(row["key"])
            if clip is None:  # Its source was removed, or has changed.
                continue
            values = {"split": clip.split, **clip.labels}
            for name in columns:
                if _comparable(name, row[name]) != _comparable(name, values.get(name)):
                    count += 1
                    changed.append(f"{clip.source}: {name} {row[name]!r} -> {values.get(name)!r}")
                    del changed[NAMED:]
    if changed:
        raise ConfigError(
            f"corpus.videos has another split or other labels for clips that {corpus} has ({count} values): "
            f"{'; '.join(changed)}. corpus.append does not change them: bring the old values back, or cut all clips "
            "again with the new ones: xdc stage shard RUN --force"
        )


def _comparable(name: str, value: str | None) -> str | None:
    return split_name(value or "") if name == "split" else value


def keep_shards(corpus: Path, manifest: Manifest, plan: Plan, out: Path) -> None:
    """Store the shards of the committed corpus in `out`, with receipts and the keys of their masked clips.

    Its files are linked, and not read: their sha256 are those of its manifest.
    """
    stored = begin_units(out, [shard_name(number) for number in range(plan.shards)])
    for number in range(plan.kept_shards):
        if (shard := shard_name(number)) not in stored:
            _keep_shard(corpus, manifest, plan, out, shard, number)
    if read_manifest(corpus) != manifest:
        raise StageError(f"{corpus} was replaced by another process meanwhile. Nothing is lost: run this again.")


def _keep_shard(corpus: Path, manifest: Manifest, plan: Plan, out: Path, shard: str, number: int) -> None:
    clips = list(planned_clips(clip_table(plan, plan.places(number))))
    planned = {clip.key for clip in clips}
    rejects = [reject_of(entry) for entry in read_stored_json(corpus / f"{shard}.rejects.json", "shard")]
    index = read_stored_index(corpus, shard)
    masked = [key for key in [*index["key"].to_pylist(), *_keys_of(rejects)] if key not in planned]
    elsewhere = tars_elsewhere(corpus)
    suffixes = (".tar", ".parquet", ".rejects.json") if elsewhere is None else (".parquet", ".rejects.json")
    names = [f"{shard}{suffix}" for suffix in suffixes]
    known = {name: (entry.size, entry.sha256) for name in names if (entry := manifest.files.get(name))}
    with new_shard(out, shard, known) as new:
        for name in names:
            if name == f"{shard}.parquet" and not {field.name for field in LATER} <= {*index.column_names}:
                known.pop(name)  # Of an earlier version. All indices of a corpus have the same columns.
                write_parquet(new.folder / name, with_later_columns(index))
            else:
                link_or_copy(corpus / name, new.folder / name)
        if masked:
            write_json(new.folder / masked_file(shard), masked)
        live = index.filter(pc.is_in(index["key"], pa.array(sorted(planned), index["key"].type)))
        describe(new, shard, sorted(planned), live, [each for each in rejects if _is_of(each, clips)])
        new.notes["masked"] = len(index) - len(live)
        if elsewhere is not None:
            new.notes[TAR] = elsewhere["tars"][f"{shard}.tar"]


def _keys_of(rejects: list[Reject]) -> Iterator[str]:
    return (reject.key for reject in rejects if reject.key)


def _is_of(reject: Reject, clips: list[Any]) -> bool:
    """Return whether a reject is one of these clips, or a part of one."""
    if reject.key:
        return any(clip.key == reject.key for clip in clips)
    start_s = reject.start_s or 0.0
    return any(clip.source == reject.source and clip.start_s <= start_s < clip.end_s for clip in clips)


def generation_summary(corpus: Path, manifest: Manifest, plan: Plan, accepted: str) -> dict[str, Any]:
    """Return what the summary of a corpus says of its generations, and the digest of its accepted clips.

    accepted: the digest of its keys. Other stages use both: the same clips in other shards are another corpus.
    """
    before = generation_of(corpus, manifest)
    sizes = np.bincount(plan.shard, minlength=plan.shards).tolist()
    earlier = [*manifest.summary.get(GENERATIONS, ()), vars(before)]
    return {GENERATIONS: earlier, "accepted": fingerprint([before.read_as, accepted, sizes])}
