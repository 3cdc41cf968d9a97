"""Cut the clips of a shard: the work of a unit. Tar, index and rejects are checked against the plan and stored."""

import contextlib
import errno
import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shards.cores import core_count
from shards.corpus.index import MEMBERS, NO_MEMBER, group_columns, index_name, index_schema
from shards.corpus.plan import Plan, PlannedClip, clip_table, planned_clips
from shards.errors import MediaError, SourceError, StageError
from shards.media.cut import Clip, cut
from shards.media.limits import limits_of
from shards.media.sandbox import ordered_map
from shards.media.source_file import check_readable, read_through
from shards.objects.bucket import SCHEME, Bucket
from shards.objects.generation import store_tar
from shards.reject import Reject
from shards.settings import CorpusSettings, is_url
from shards.sources.coverage import Span, rejected_spans, slack_s, uncovered
from shards.sources.fetched import Content, fetching, located
from shards.sources.surveyed import Survey
from shards.store.executor import Advance
from shards.store.files import new_file, write_json
from shards.store.parquet import write_parquet
from shards.store.receipt import UNITS, NewShard, Receipt, new_shard

# The clips of all shards, for workers: a batch of an Arrow file for each shard, so that one is read without the others.
CLIPS = f"{UNITS}/clips.arrow"
CONTENT = "source_sha256"  # In this file: of sources in object stores, which are compared when they are fetched.
TAR = "tar"  # In the notes of a receipt: size and sha256 of a tar that is in an object store.


def write_clips(out: Path, plan: Plan, surveyed: Survey) -> None:
    """Write the clips of a plan for workers."""
    paths = plan.sources.table["path"]
    contents = pa.nulls(len(paths), pa.string())
    if pc.any(there := pc.starts_with(paths, SCHEME)).as_py():
        contents = surveyed.table["sha256"].take(pa.array(surveyed.numbers(paths))).cast(pa.string())
        contents = pc.if_else(there, contents, None)

    def rows(places: slice) -> pa.Table:
        of_clips = contents.take(pa.array(plan.source[places]))
        return clip_table(plan, places).append_column(CONTENT, of_clips)

    with new_file(out / CLIPS) as temporary:
        schema = rows(slice(0, 0)).schema
        with pa.ipc.new_file(temporary, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as file:
            for number in range(plan.shards):
                file.write_batch(_batch(rows(plan.places(number))))


def _batch(table: pa.Table) -> pa.RecordBatch:
    columns = [column.combine_chunks() for column in table.columns]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


@contextlib.contextmanager
def open_clips(out: Path) -> Iterator[pa.RecordBatchFileReader]:
    """Yield a reader of `write_clips`: `get_batch(number)` has the rows of a shard, as in `clip_table`."""
    with pa.memory_map(str(out / CLIPS)) as file, pa.ipc.open_file(file) as reader:
        yield reader


def _clips(planned: pa.RecordBatchFileReader, shard: str) -> Iterator[PlannedClip]:
    return planned_clips(planned.get_batch(int(shard)).drop_columns([CONTENT]))


def cut_clip(root: str, source: str, start_s: float, end_s: float, settings: CorpusSettings) -> Clip:
    """Cut one clip, in a child process of the sandbox.

    Raises:
        MediaError: the clip cannot be used.
        SourceError: the file, which was surveyed before, is gone or cannot be read.
    """
    path = Path(root) / source
    try:
        return cut(path, start_s, end_s, settings)
    except MediaError as error:
        check_readable(path)
        if getattr(error.__cause__, "errno", 0) == errno.EIO:
            read_through(path)
        raise


def cut_shards(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """Store tar, index and rejects of some shards, and yield their receipts: the work of a unit.

    arguments: root, the folder of the sources; out, the partial directory; settings, those of the corpus.

    Raises:
        StageError: a source is gone or cannot be read any more; or clips and rejects of a shard are not those of the
            plan, which is a defect.
    """
    root, out = Path(arguments["root"]), Path(arguments["out"])
    settings = CorpusSettings.model_validate(arguments["settings"])
    with open_clips(out) as planned:
        surveyed = dict[str, str]()
        for number in map(int, shards):
            batch = planned.get_batch(number)
            surveyed |= dict(zip(batch["source"].to_pylist(), batch[CONTENT].to_pylist(), strict=True))

        def fetched(url: str, content: Content) -> None:
            if content.sha256 != surveyed[url]:
                raise SourceError("it has been replaced, and is surveyed again if this command is run again")

        names = [name for name in planned.schema.names if name.startswith("label")]
        everything = (clip for shard in shards for clip in _clips(planned, shard))
        jobs = ((str(root), clip.source, clip.start_s, clip.end_s, settings) for clip in everything)
        fetch = fetching(out / UNITS / "copies", fetched)
        made = ordered_map(cut_clip, jobs, settings.workers or core_count(), limits_of(settings), fetch)
        with contextlib.closing(made):  # The children end here, even if something fails.
            for shard in shards:
                clips = list(_clips(planned, shard))
                with new_shard(out, shard) as new:
                    _cut_shard(new, shard, root, clips, made, names, settings, advance)
                yield new.stored


def _cut_shard(
    new: NewShard,
    shard: str,
    root: Path,
    planned: Sequence[PlannedClip],
    made: Iterator[Clip | MediaError | SourceError],
    label_names: Sequence[str],
    settings: CorpusSettings,
    advance: Advance,
) -> None:
    rejects: list[Reject] = []
    rows: list[dict[str, Any]] = []
    with new_file(new.folder / f"{shard}.tar") as temporary:
        for row in _write_tar(temporary, root, planned, made, label_names, settings, rejects):
            rows += [row] if row else []
            advance(int(bool(row)), int(not row))
        _add_offsets(temporary, rows)
    write_json(new.folder / f"{shard}.rejects.json", [asdict(reject) for reject in rejects])
    table = pa.Table.from_pylist(rows, index_schema(label_names))
    write_parquet(new.folder / index_name(shard), table)
    _check_covered(shard, planned, rows, rejects, settings)
    describe(new, shard, [clip.key for clip in planned], table, rejects)
    if is_url(settings.path):
        new.notes[TAR] = asdict(store_tar(Bucket(settings.path), new.folder / f"{shard}.tar"))


def describe(new: NewShard, shard: str, planned: list[str], index: pa.Table, rejects: Sequence[Reject]) -> None:
    """Set what a shard's receipt says: rows, rejected clips, and in its notes bytes, seconds and all rejects.

    planned: the keys of its clips. index: with columns key, duration_s and the members' sizes.

    Raises:
        StageError: rows and rejected clips are not the planned ones.
    """
    keys = index["key"].to_pylist()
    rejected = rejected_keys(rejects)
    if sorted([*keys, *rejected]) != sorted(planned):
        raise StageError(
            f"shard {shard}: clips and rejects do not add up to the plan ({len(keys)} + {len(rejected)} of "
            f"{len(planned)}). This is a defect of xdc; keep the folder and report it."
        )
    new.rows, new.rejects = len(keys), len(rejected)
    new.notes = {
        "video_seconds": sum(index["duration_s"].to_pylist()),
        "bytes": sum(sum(index[f"{member}_size"].to_pylist()) for member in MEMBERS),
        "rejects": [asdict(reject) for reject in rejects],
    }


def rejected_keys(rejects: Iterable[Reject]) -> list[str]:
    """Return the keys of the planned clips that were rejected. Other rejects are for parts of clips."""
    return [reject.key for reject in rejects if reject.step == "cut" and reject.key]


def _check_covered(
    shard: str,
    planned: Iterable[PlannedClip],
    rows: Iterable[dict[str, Any]],
    rejects: Iterable[Reject],
    settings: CorpusSettings,
) -> None:
    """Raise StageError if a planned second is in no clip and in no reject."""
    clips = (Span(row["source"], row["start_s"], row["start_s"] + row["duration_s"]) for row in rows)
    wanted = (Span(clip.source, clip.start_s, clip.end_s) for clip in planned)
    for span in uncovered(wanted, [*clips, *rejected_spans(rejects)], slack_s(settings.fps)):
        raise StageError(
            f"shard {shard}: {span.source} from {span.start_s:.2f} s to {span.end_s:.2f} s is in no clip and in no "
            "reject. This is a defect of xdc; keep the folder and report it."
        )


def _write_tar(
    path: Path,
    root: Path,
    planned: Iterable[PlannedClip],
    clips: Iterator[Clip | MediaError | SourceError],
    label_names: Sequence[str],
    settings: CorpusSettings,
    rejects: list[Reject],
) -> Iterator[dict[str, Any] | None]:
    """Write one tar, yield the index row of each clip, None for a rejected one, and collect rejects."""
    from webdataset.writer import TarWriter  # Imports torch.

    # Fixed owner, mode and time: the same clips give the same bytes. Closed also on a full disk: else it would try once
    # more when it is collected, and print a traceback.
    fixed = {"user": "xdc", "group": "xdc", "mode": 0o644, "mtime": 0.0}
    with path.open("wb") as file, contextlib.closing(TarWriter(file, encoder=False, **fixed)) as writer:
        for clip in planned:
            made = next(clips)
            if isinstance(made, SourceError):
                place = located(root, clip.source)
                raise StageError(
                    f"{place} was there when it was surveyed, and cannot be read now: {made}. What is finished is kept"
                    ". Bring it back (is its disk mounted?) and run the same command again. Or remove it from "
                    "corpus.videos and run the same command again: the clips are then planned without it."
                )
            if isinstance(made, MediaError):
                rejects.append(Reject(clip.source, "cut", made.kind, str(made), clip.key, clip.start_s, clip.end_s))
                yield None
                continue
            if rest := _rest(clip, made, settings):
                rejects.append(rest)
            row: dict[str, Any] = {
                "key": clip.key,
                "source": clip.source,
                "start_s": clip.start_s,
                "duration_s": made.duration_s,
                "fps": settings.fps,
                "frames": made.frames,
                "width": made.width,
                "height": made.height,
                "sample_rate": settings.sample_rate if made.flac else 0,
                "samples": made.samples,
                "split": clip.split,
                **{name: clip.labels.get(name) for name in label_names},
                **_digests(made),
            }
            note = json.dumps(row, ensure_ascii=False).encode()
            members = {"mp4": made.mp4, "flac": made.flac, "json": note}
            writer.write({"__key__": clip.key, **{name: data for name, data in members.items() if data}})
            # Not in the json: tars are the same as before there were these columns.
            yield row | _measures(made) | group_columns(made.groups)


def _digests(made: Clip) -> dict[str, str]:
    """Return the sha256 of each member ("" if absent), and of all: the picture is hashed once for both."""
    whole = hashlib.sha256(made.mp4)
    picture = whole.hexdigest() if made.mp4 else ""
    sound = hashlib.sha256(made.flac).hexdigest() if made.flac else ""
    whole.update(made.flac)
    return {"mp4_sha256": picture, "flac_sha256": sound, "sha256": whole.hexdigest()}


def _measures(made: Clip) -> dict[str, Any]:
    measures = made.measures
    return {"shots": measures.shots, **asdict(measures)}


def _rest(clip: PlannedClip, made: Clip, settings: CorpusSettings) -> Reject | None:
    """Return a reject for the planned part of a clip that did not decode, if that is more than a frame."""
    end_s = clip.start_s + made.duration_s
    if clip.end_s - end_s <= slack_s(settings.fps) - 1e-3:
        return None
    reason = f"the last {clip.end_s - end_s:.2f} s of this span do not decode; what is before them is a clip"
    return Reject(clip.source, "cut", "damaged", reason, "", end_s, clip.end_s)


def _add_offsets(tar: Path, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row.update({f"{member}_offset": NO_MEMBER for member in MEMBERS} | {f"{member}_size": 0 for member in MEMBERS})
    by_key = {row["key"]: row for row in rows}
    with tarfile.open(tar) as archive:
        for member in archive:
            key, extension = member.name.split(".", 1)
            by_key[key][f"{extension}_offset"] = member.offset_data
            by_key[key][f"{extension}_size"] = member.size
