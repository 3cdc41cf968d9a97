"""The work of the shard stage: sources -> clips -> tars with an index each, rejects, and a plan. Resumes by shard."""

import contextlib
import errno
import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards.corpus.coverage import Span, slack_s, uncovered
from shards.corpus.index import MEMBERS, NO_MEMBER, index_schema, read_index, shard_name, shard_names
from shards.corpus.plan import Plan, PlannedClip, plan_table
from shards.corpus.survey import Surveyed
from shards.errors import MediaError, SourceError, StageError
from shards.media.cores import core_count
from shards.media.cut import Clip, cut
from shards.media.limits import limits_of
from shards.media.sandbox import ordered_map
from shards.media.source_file import check_readable, read_through
from shards.progress import Progress
from shards.reject import Reject, reject_of
from shards.settings import CorpusSettings
from shards.store.commit import replaced_directory, stale_directory
from shards.store.files import new_file, write_json
from shards.store.manifest import fingerprint, read_manifest
from shards.store.parquet import write_parquet

REJECTS_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("key", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("step", pa.string()),
        ("kind", pa.string()),
        ("reason", pa.string()),
    ]
)
SOURCES_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("path", "sha256", "video_codec", "audio_codec", "reason", "kind")),
        *((name, pa.int64()) for name in ("size", "mtime_ns", "unreadable_at")),
        *((name, pa.int32()) for name in ("width", "height", "sample_rate", "probe_version")),
        *(
            (name, pa.float64())
            for name in ("duration_s", "header_duration_s", "sound_duration_s", "last_packet_s", "fps")
        ),
        ("asked_s", pa.list_(pa.list_(pa.float64()))),
    ]
)


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


def write_corpus(
    root: Path,
    plan: Plan,
    surveyed: dict[str, Surveyed],
    settings: CorpusSettings,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Write all files of a corpus except its manifest into `out`; existing shards are kept.

    Returns a summary: clips, rejects by step and kind, bytes, hours of video, and the number of headers that state a
    wrong duration.

    Raises:
        StageError: a source is gone or cannot be read any more, more than `max_reject_share` of the clips were
            rejected, or a row went missing.
    """
    _take_plan(out, plan)
    write_parquet(out / "sources.parquet", _sources_table(plan, surveyed))
    todo = [number for number in range(plan.shards) if not (out / f"{shard_name(number)}.parquet").exists()]
    planned: dict[int, list[PlannedClip]] = {number: [] for number in range(plan.shards)}
    for clip in plan.clips:
        planned[clip.shard].append(clip)
    wanted = [clip for number in todo for clip in planned[number]]
    jobs = ((str(root), clip.source.path, clip.start_s, clip.end_s, settings) for clip in wanted)
    clips = ordered_map(cut_clip, jobs, settings.workers or core_count(), limits_of(settings))
    done, rejected = len(plan.clips) - len(wanted), 0
    progress(done, len(plan.clips), "clips")
    with contextlib.closing(clips):  # The children end here, even if something fails.
        for number in todo:
            rejects: list[Reject] = []
            with new_file(out / f"{shard_name(number)}.tar") as temporary:
                rows = []
                for row in _write_tar(temporary, root, planned[number], clips, plan, settings, rejects):
                    rows.append(row)
                    done += 1
                    progress(done, len(plan.clips), f"clips, {rejected + len(rejects)} rejected")
                _add_offsets(temporary, rows)
            done, rejected = done + len(rejects), rejected + len(rejects)
            # The index is last: if it exists, tar and rejects do, too.
            write_json(out / f"{shard_name(number)}.rejects.json", [asdict(reject) for reject in rejects])
            schema = index_schema(plan.label_names)
            write_parquet(out / f"{shard_name(number)}.parquet", pa.Table.from_pylist(rows, schema))
    return _finish(plan, settings, out) | {"wrong_headers": sum(map(_header_is_wrong, surveyed.values()))}


def _write_tar(
    path: Path,
    root: Path,
    planned: list[PlannedClip],
    clips: Iterator[Clip | MediaError | SourceError],
    plan: Plan,
    settings: CorpusSettings,
    rejects: list[Reject],
) -> Iterator[dict[str, Any]]:
    """Write one tar, yield the index row of each clip, and collect rejects."""
    from webdataset.writer import TarWriter  # Imports torch.

    # Fixed owner, mode and time: the same clips give the same bytes. Closed also on a full disk: else it would try once
    # more when it is collected, and print a traceback.
    fixed = {"user": "xdc", "group": "xdc", "mode": 0o644, "mtime": 0.0}
    with path.open("wb") as file, contextlib.closing(TarWriter(file, encoder=False, **fixed)) as writer:
        for clip in planned:
            made = next(clips)
            source = clip.source
            if isinstance(made, SourceError):
                raise StageError(
                    f"{root / source.path} was there when it was surveyed, and cannot be read now: {made}. What is "
                    "finished is kept. Bring it back (is its disk mounted?) and run the same command again. Or remove "
                    "it from corpus.videos and run the same command again: the clips are then planned without it."
                )
            if isinstance(made, MediaError):
                rejects.append(Reject(source.path, "cut", made.kind, str(made), clip.key, clip.start_s, clip.end_s))
                continue
            if rest := _rest(clip, made, settings):
                rejects.append(rest)
            row: dict[str, Any] = {
                "key": clip.key,
                "source": source.path,
                "start_s": clip.start_s,
                "duration_s": made.duration_s,
                "fps": settings.fps,
                "frames": made.frames,
                "width": made.width,
                "height": made.height,
                "sample_rate": settings.sample_rate if made.flac else 0,
                "samples": made.samples,
                "split": source.split,
                **{name: source.labels.get(name) for name in plan.label_names},
                **_digests(made),
            }
            note = json.dumps(row, ensure_ascii=False).encode()
            members = {"mp4": made.mp4, "flac": made.flac, "json": note}
            writer.write({"__key__": clip.key, **{name: data for name, data in members.items() if data}})
            yield row


def _digests(made: Clip) -> dict[str, str]:
    """Return the sha256 of each member ("" if absent), and of all: the picture is hashed once for both."""
    whole = hashlib.sha256(made.mp4)
    picture = whole.hexdigest() if made.mp4 else ""
    sound = hashlib.sha256(made.flac).hexdigest() if made.flac else ""
    whole.update(made.flac)
    return {"mp4_sha256": picture, "flac_sha256": sound, "sha256": whole.hexdigest()}


def _rest(clip: PlannedClip, made: Clip, settings: CorpusSettings) -> Reject | None:
    """Return a reject for the planned part of a clip that did not decode, if that is more than a frame."""
    end_s = clip.start_s + made.duration_s
    if clip.end_s - end_s <= slack_s(settings.fps) - 1e-3:
        return None
    reason = f"the last {clip.end_s - end_s:.2f} s of this span do not decode; what is before them is a clip"
    return Reject(clip.source.path, "cut", "damaged", reason, "", end_s, clip.end_s)


def _take_plan(out: Path, plan: Plan) -> None:
    """Write the plan. Shards of an earlier version, or of another plan, are removed."""
    path, table = out / "plan.parquet", plan_table(plan)
    if path.exists() and not pq.read_table(path).equals(table, check_metadata=True):
        for number in out.glob("[0-9]*"):
            number.unlink()
    write_parquet(path, table)


def _sources_table(plan: Plan, surveyed: dict[str, Surveyed]) -> pa.Table:
    """Return sources.parquet: a row per file. `asked_s`: the requested spans, up to the last packet, in seconds."""
    asked: dict[str, list[list[float]]] = {}
    for span in plan.asked:
        asked.setdefault(span.source, []).append([span.start_s, span.end_s])
    rows = [asdict(entry) | {"asked_s": asked.get(entry.path, [])} for entry in surveyed.values()]
    return pa.Table.from_pylist(rows, SOURCES_SCHEMA)


def _add_offsets(tar: Path, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row.update({f"{member}_offset": NO_MEMBER for member in MEMBERS} | {f"{member}_size": 0 for member in MEMBERS})
    by_key = {row["key"]: row for row in rows}
    with tarfile.open(tar) as archive:
        for member in archive:
            key, extension = member.name.split(".", 1)
            by_key[key][f"{extension}_offset"] = member.offset_data
            by_key[key][f"{extension}_size"] = member.size


def _header_is_wrong(entry: Surveyed) -> bool:
    """Return whether a header's duration is wrong by more than a second and by more than a twentieth."""
    off_s = abs(entry.header_duration_s - entry.duration_s)
    return not entry.reason and entry.header_duration_s > 0 and off_s > max(1.0, 0.05 * entry.duration_s)


def _finish(plan: Plan, settings: CorpusSettings, out: Path) -> dict[str, Any]:
    """Collect the shards' rejects, check that every planned clip is stored or rejected, and return the summary."""
    notes = sorted(out.glob("[0-9]*.rejects.json"))
    rejects = list(plan.rejects)
    for note in notes:
        rejects += [reject_of(entry) for entry in json.loads(note.read_text(encoding="utf-8"))]
    keys: list[str] = []
    total = Counter[str]()
    clips: list[Span] = []
    for number in range(plan.shards):
        columns = ["source", "start_s", "key", "duration_s", *(f"{member}_size" for member in MEMBERS)]
        index = read_index(out, shard_name(number), columns)
        keys += index["key"].to_pylist()
        total["video_seconds"] += sum(index["duration_s"].to_pylist())
        total["bytes"] += sum(sum(index[column].to_pylist()) for column in columns[4:])
        spans = zip(*(index[name].to_pylist() for name in ("source", "start_s", "duration_s")), strict=True)
        clips += [Span(source, start_s, start_s + duration_s) for source, start_s, duration_s in spans]
    cut_rejects = [reject for reject in rejects if reject.step == "cut" and reject.key]
    if sorted([*keys, *(reject.key for reject in cut_rejects)]) != sorted(clip.key for clip in plan.clips):
        raise StageError(
            f"{out}: clips and rejects do not add up to the plan ({len(keys)} + {len(cut_rejects)} of "
            f"{len(plan.clips)}). This is a defect of xdc; keep the folder and report it."
        )
    _check_coverage(out, plan, clips, rejects, settings)
    _check_share(plan, rejects, len(keys), settings.max_reject_share)
    rows = [asdict(reject) for reject in rejects]
    write_parquet(out / "rejects.parquet", pa.Table.from_pylist(rows, REJECTS_SCHEMA))
    write_json(out / "shards.json", [f"{shard_name(number)}.tar" for number in range(plan.shards)])
    return {
        "clips": len(keys),
        "sources": len({clip.source.path for clip in plan.clips}),
        "rejects": dict(Counter(reject.step for reject in rejects)),
        "kinds": dict(Counter(reject.kind for reject in rejects).most_common()),
        "reasons": dict(Counter(reject.reason for reject in rejects).most_common(10)),
        "hours": round(total["video_seconds"] / 3600, 4),
        "bytes": total["bytes"],
    }


def files_of(plan: Plan) -> tuple[str, ...]:
    """Return the names of the required files of a corpus with this plan."""
    shards = [shard_name(number) for number in range(plan.shards)]
    return tuple(f"{shard}{suffix}" for shard in shards for suffix in (".tar", ".parquet"))


def accepted_of(out: Path, plan: Plan, corpus: Path, identity: str) -> str:
    """Return a digest of the accepted clips, which do not follow from sources and settings alone. Other stages use it.

    It is the digest of the keys. If the corpus that is replaced has the same fingerprint `identity` and the same keys,
    but other clips, it is the digest of the content.
    """
    shards = [shard_name(number) for number in range(plan.shards)]
    keys, content = _keys_and_content(out, shards)
    for before in (corpus, replaced_directory(corpus, identity), stale_directory(corpus, identity)):
        manifest = read_manifest(before)
        if manifest is not None and manifest.fingerprint == identity:
            with contextlib.suppress(StageError):  # A damaged one is not compared.
                if _keys_and_content(before, shard_names(before)) == (keys, content):
                    return str(manifest.summary.get("accepted") or fingerprint(keys))
                return fingerprint([keys, content])
    return fingerprint(keys)


def _keys_and_content(corpus: Path, shards: list[str]) -> tuple[list[str], list[str]]:
    tables = [read_index(corpus, shard, ["key", "sha256"]) for shard in shards]
    columns = ([entry for table in tables for entry in table[name].to_pylist()] for name in ("key", "sha256"))
    keys, content = columns
    return keys, content


def _check_coverage(out: Path, plan: Plan, clips: list[Span], rejects: list[Reject], settings: CorpusSettings) -> None:
    """Raise StageError if a requested second is in no clip and in no reject."""
    for span in uncovered(plan.asked, [*clips, *rejected_spans(rejects)], slack_s(settings.fps)):
        raise StageError(
            f"{out}: {span.source} from {span.start_s:.2f} s to {span.end_s:.2f} s is in no clip and in no reject. "
            "This is a defect of xdc; keep the folder and report it."
        )


def rejected_spans(rejects: Iterable[Reject]) -> Iterator[Span]:
    """Return the spans of rejects with both ends."""
    for reject in rejects:
        if reject.start_s is not None and reject.end_s is not None:
            yield Span(reject.source, reject.start_s, reject.end_s)


def _check_share(plan: Plan, rejects: list[Reject], clips: int, allowed: float) -> None:
    """Raise StageError if too many clips were rejected. A rejected file counts as one clip."""
    bad = [reject for reject in rejects if reject.step == "probe" or (reject.step == "cut" and reject.key)]
    if clips and len(bad) <= allowed * (len(bad) + clips):
        return
    common = "; ".join(f"{n} x {why}" for why, n in Counter(reject.reason for reject in bad).most_common(3))
    raise StageError(
        f"{len(bad)} inputs were rejected and {clips} clips are good: more than the share allowed by "
        f"corpus.max_reject_share ({allowed:g}). The most frequent reasons: {common or 'none'}. "
        "Check the sources, or raise max_reject_share and run again (what is done is kept). If the machine was "
        "the cause, for example by lack of memory, rebuild the corpus: xdc stage shard ... --force"
    )
