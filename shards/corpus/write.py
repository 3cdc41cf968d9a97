"""The files of a corpus: its tables, the cutting of its shards in units, and a summary from their receipts."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.corpus.cut import TAR, open_clips, write_clips
from shards.corpus.generation import GENERATIONS, KEPT_FROM
from shards.corpus.index import index_name, noted_schema, read_index, shard_name, shard_names
from shards.corpus.plan import CUT_VERSION, Plan, clip_table
from shards.errors import NoPictures, NoSounds, StageError
from shards.exchange.card import write_card
from shards.exchange.wids import Tar, write_wids
from shards.progress import Progress
from shards.reject import Reject, reject_of
from shards.settings import CorpusSettings, is_url
from shards.sources.rejects import REJECTS_SCHEMA, reject_columns
from shards.sources.surveyed import Survey, Surveyed
from shards.store.commit import replaced_directory, stale_directory
from shards.store.executor import Executor, Job, run_units
from shards.store.files import INDEX, sha256_of, write_json
from shards.store.manifest import FileEntry, read_manifest
from shards.store.parquet import write_row_groups
from shards.store.receipt import RECEIPTS, UNITS, receipts_of

PLAN = ["key", "source", "start_s", "end_s", "shard"]
BATCH = 8192  # Rows of a table that are made at once.
# The error of a corpus most of whose rejects are of a kind.
LACKING: dict[str, type[StageError]] = {"no_picture": NoPictures, "no_sound": NoSounds}
SOURCES_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("path", "sha256", "video_codec", "audio_codec", "reason", "kind")),
        *((name, pa.int64()) for name in ("size", "mtime_ns", "unreadable_at")),
        *((name, pa.int32()) for name in ("width", "height", "sample_rate", "probe_version")),
        *(
            (name, pa.float64())
            for name in ("duration_s", "header_duration_s", "sound_duration_s", "last_packet_s", "fps")
        ),
        ("boundaries_s", pa.list_(pa.float64())),
        ("asked_s", pa.list_(pa.list_(pa.float64()))),
    ]
)


def write_corpus(
    root: Path,
    plan: Plan,
    surveyed: Survey,
    settings: CorpusSettings,
    out: Path,
    progress: Progress,
    executor: Executor,
    logs: Path,
    name: str,
    keep: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Write all files of a corpus except its manifest into `out`; existing shards are kept.

    The shards are cut in units of one shard each, by `executor`. logs: the folder for output of its workers.
    name: of the node, for messages and the names of these logs. keep: stores shards of an earlier generation in `out`.

    Returns a summary: clips, rejects by step and kind, bytes, hours of video, and the number of headers that state a
    wrong duration.

    Raises:
        StageError: a source is gone or cannot be read any more, more than `max_reject_share` of the clips were
            rejected, or a row went missing.
    """
    _take_plan(out, plan, surveyed)
    write_row_groups(out / "sources.parquet", SOURCES_SCHEMA, _sources_tables(plan, surveyed))
    if keep is not None:
        keep()
    counts = np.bincount(plan.shard, minlength=plan.shards).tolist()
    sizes = {shard_name(number): count for number, count in enumerate(counts)}
    job = Job(
        name=name,
        work="shards.corpus.cut:cut_shards",
        arguments={
            "root": str(root.absolute()),
            "out": str(out.absolute()),
            "settings": settings.model_dump(mode="json"),
        },
        out=str(out.absolute()),
        logs=str(logs.absolute()),
        library="torch",
    )
    run_units(executor, job, sizes, 1, progress)
    wrong = sum(map(_header_is_wrong, surveyed.files()))
    return _finish(plan, settings, out, sizes) | {"wrong_headers": wrong}


def _take_plan(out: Path, plan: Plan, surveyed: Survey) -> None:
    """Write the plan. Shards of an earlier version, or of another plan, are removed."""
    (out / UNITS).mkdir(exist_ok=True)
    path, new = out / "plan.parquet", out / UNITS / "plan.parquet"
    marks = {"cut_version": str(CUT_VERSION)} | ({KEPT_FROM: plan.kept_from} if plan.kept_from else {})
    schema = clip_table(plan, slice(0, 0)).select(PLAN).schema.with_metadata(marks)
    write_row_groups(new, schema, (clip_table(plan, plan.places(number)) for number in range(plan.shards)))
    if path.exists() and sha256_of(path) != sha256_of(new):
        shutil.rmtree(out / UNITS / RECEIPTS, ignore_errors=True)
        for file in (*out.glob("[0-9]*"), *out.glob(f"{INDEX}/[0-9]*")):
            file.unlink()
    os.replace(new, path)
    write_clips(out, plan, surveyed)


def _sources_tables(plan: Plan, surveyed: Survey) -> Iterator[pa.Table]:
    """Yield sources.parquet: a row per file. `asked_s`: the requested spans, up to the last packet, in seconds."""
    files = surveyed.numbers(plan.sources.table["path"])
    order = np.argsort(files, kind="stable")
    order = order[~np.isnan(plan.asked_s[order, 0])]
    ordered = files[order]
    for first in range(0, len(surveyed), BATCH):
        rows = surveyed.table.slice(first, BATCH)
        bounds = np.searchsorted(ordered, np.arange(first, first + len(rows) + 1))
        spans = plan.asked_s[order[bounds[0] : bounds[-1]]]
        pairs = pa.ListArray.from_arrays(
            pa.array(np.arange(len(spans) + 1, dtype=np.int32) * 2), pa.array(spans.ravel())
        )
        asked = pa.ListArray.from_arrays(pa.array((bounds - bounds[0]).astype(np.int32)), pairs)
        yield rows.append_column("asked_s", asked)


def _header_is_wrong(entry: Surveyed) -> bool:
    """Return whether a header's duration is wrong by more than a second and by more than a twentieth."""
    off_s = abs(entry.header_duration_s - entry.duration_s)
    return not entry.reason and entry.header_duration_s > 0 and off_s > max(1.0, 0.05 * entry.duration_s)


def _finish(plan: Plan, settings: CorpusSettings, out: Path, sizes: dict[str, int]) -> dict[str, Any]:
    """Sum up the shards' receipts, write the files about all of them, and return the summary."""
    clips = stored = masked = 0
    video_seconds, tars = 0.0, list[Tar]()

    def rejected() -> Iterator[Reject]:
        for receipt in receipts_of(out, sizes):
            yield from map(reject_of, receipt.notes["rejects"])

    for receipt in receipts_of(out, sizes):
        if receipt.rows + receipt.rejects != sizes[receipt.shard]:
            raise StageError(
                f"{out}: the clips and rejects of shard {receipt.shard} do not add up to the plan ({receipt.rows} + "
                f"{receipt.rejects} of {sizes[receipt.shard]}). This is a defect of xdc; keep the folder and report it."
            )
        clips += receipt.rows
        stored += receipt.notes["bytes"]
        masked += receipt.notes.get("masked", 0)
        if (tar := f"{receipt.shard}.tar") in receipt.files:
            tars.append(Tar(tar, receipt.rows + receipt.notes.get("masked", 0), receipt.files[tar][0]))
        video_seconds += receipt.notes["video_seconds"]
    table = pa.concat_tables([plan.rejects, reject_columns(rejected())]).unify_dictionaries()
    _check_share(table, clips, settings.max_reject_share)
    parts = (table.slice(first, BATCH) for first in range(0, len(table), BATCH))
    write_row_groups(out / "rejects.parquet", REJECTS_SCHEMA, parts)
    write_json(out / "shards.json", [f"{shard}.tar" for shard in sizes])
    summary = {
        "clips": clips,
        "sources": pc.count_distinct(plan.sources.table["path"].take(pa.array(np.unique(plan.source)))).as_py(),
        "rejects": dict(_counts(table["step"])),
        "kinds": dict(sorted(_counts(table["kind"]), key=lambda pair: -pair[1])),
        "reasons": dict(sorted(_counts(table["reason"]), key=lambda pair: -pair[1])[:10]),
        "hours": round(video_seconds / 3600, 4),
        "bytes": stored,
    } | ({"masked": masked} if masked else {})
    name = settings.path.rstrip("/").rpartition("/")[2]
    labels = plan.sources.label_names
    noted = {field.name: str(field.type) for field in noted_schema(labels)}
    write_card(out, name, settings, summary, labels, noted)
    if not is_url(settings.path):
        write_wids(out, name, tars)
    return summary


def _counts(column: pa.ChunkedArray) -> list[tuple[str, int]]:
    """Return each text and how often it occurs, in the order of their first occurrences."""
    return [(row["values"], row["counts"]) for row in column.value_counts().to_pylist()]


def files_of(plan: Plan, settings: CorpusSettings) -> tuple[str, ...]:
    """Return the names of the required files of a corpus with this plan; tars in an object store are not."""
    shards = [shard_name(number) for number in range(plan.shards)]
    tars = [] if is_url(settings.path) else [f"{shard}.tar" for shard in shards]
    return (*tars, *map(index_name, shards))


def stored_tars(out: Path, plan: Plan) -> dict[str, FileEntry]:
    """Return size and sha256 of the tars that workers have put into an object store, by name, from their receipts.

    Raises:
        StageError: a shard has no receipt.
    """
    shards = [shard_name(number) for number in range(plan.shards)]
    return {f"{receipt.shard}.tar": FileEntry(**receipt.notes[TAR]) for receipt in receipts_of(out, shards)}


def accepted_of(out: Path, plan: Plan, corpus: Path, identity: str) -> str:
    """Return a digest of the accepted clips, which do not follow from sources and settings alone. Other stages use it.

    It is the digest of the keys. If the corpus that is replaced has the same fingerprint `identity` and the same keys,
    but other clips, it is the digest of the content.
    """
    shards = [shard_name(number) for number in range(plan.shards)]
    accepted = digest_of_keys(out, plan)
    for before in (corpus, replaced_directory(corpus, identity), stale_directory(corpus, identity)):
        manifest = read_manifest(before)
        # A corpus that was appended to has a digest of its own kind.
        if manifest is not None and manifest.fingerprint == identity and GENERATIONS not in manifest.summary:
            with suppress(StageError):  # A damaged one is not compared.
                pairs = zip_longest(_contents(before, shard_names(before)), _contents(out, shards))
                if all(one == other for one, other in pairs):
                    return str(manifest.summary.get("accepted") or accepted)
                content = (sha256 for _, sha256 in _contents(out, shards))
                return _digest(_accepted_keys(out, shards), content)
    return accepted


def digest_of_keys(out: Path, plan: Plan) -> str:
    """Return a digest of the keys of all stored clips, in order."""
    return _digest(_accepted_keys(out, [shard_name(number) for number in range(plan.shards)]))


def _accepted_keys(out: Path, shards: list[str]) -> Iterator[str]:
    """Yield the keys of all stored clips, in order: those of the plan without the rejected ones in the receipts."""
    with open_clips(out) as planned:
        for receipt in receipts_of(out, shards):
            rejected = {entry["key"] for entry in receipt.notes["rejects"]}
            for key in planned.get_batch(int(receipt.shard))["key"].to_pylist():
                if key not in rejected:
                    yield key


def _contents(corpus: Path, shards: list[str]) -> Iterator[tuple[str, str]]:
    """Yield key and sha256 of all clips, in order, from the indices."""
    for shard in shards:
        index = read_index(corpus, shard, ["key", "sha256"])
        yield from zip(index["key"].to_pylist(), index["sha256"].to_pylist(), strict=True)


def _digest(*lists: Iterable[str]) -> str:
    """Return the fingerprint of a list of texts, or of a list of such lists, one text after the other."""
    whole = hashlib.sha256()
    begin, end = ("[", "]") if len(lists) > 1 else ("", "")
    whole.update(begin.encode())
    for number, texts in enumerate(lists):
        whole.update(b",[" if number else b"[")
        between = ""
        for text in texts:
            whole.update((between + json.dumps(text, ensure_ascii=False)).encode())
            between = ","
        whole.update(b"]")
    whole.update(end.encode())
    return whole.hexdigest()


def _check_share(rejects: pa.Table, clips: int, allowed: float) -> None:
    """Raise StageError, or one of LACKING, if too many clips were rejected. A rejected file counts as one clip."""
    of_clips = pc.and_(pc.equal(rejects["step"], "cut"), pc.not_equal(rejects["key"], ""))
    bad = rejects.filter(pc.or_(pc.equal(rejects["step"], "probe"), of_clips))
    if clips and len(bad) <= allowed * (len(bad) + clips):
        return
    counts = sorted(_counts(bad["reason"]), key=lambda pair: -pair[1])
    common = "; ".join(f"{n} x {why}" for why, n in counts[:3])
    kinds = sorted(_counts(bad["kind"]), key=lambda pair: -pair[1])
    error = LACKING.get(kinds[0][0], StageError) if kinds else StageError
    raise error(
        f"{len(bad)} inputs were rejected and {clips} clips are good: more than the share allowed by "
        f"corpus.max_reject_share ({allowed:g}). The most frequent reasons: {common or 'none'}. "
        "Check the sources, or raise max_reject_share and run again (what is done is kept). If the machine was "
        "the cause, for example by lack of memory, rebuild the corpus: xdc stage shard ... --force"
    )
