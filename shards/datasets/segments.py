"""Data sets whose lists name segments of YouTube videos, of which only some could be downloaded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from shards.datasets.dataset import Dataset, Role, Split, make_dataset
from shards.datasets.files import Files, unlisted
from shards.reject import Kind, Reject
from shards.settings import ALL_MODALITIES
from shards.sources.source import SOUND_SUFFIXES, Source


@dataclass(frozen=True)
class Segment:
    """A row of a list: seconds start_s to end_s of a video, its role and labels. `where` names the row in messages."""

    video: str
    start_s: float
    end_s: float
    role: Role
    labels: Mapping[str, str]
    where: str


def segment_of(
    video: str, start: str, end: str, role: Role | None, labels: Mapping[str, str], where: str
) -> Segment | Reject:
    """Return a segment, or the reason why the row is invalid."""
    try:
        start_s, end_s = float(start), float(end)
    except ValueError:
        return Reject(
            video or where, "list", "bad_row", f"{where}: start {start!r} and end {end!r} are no numbers of seconds"
        )
    if not video:
        return Reject(where, "list", "bad_row", f"{where}: no video")
    if not 0 <= start_s < end_s < float("inf"):
        return Reject(video, "list", "bad_row", f"{where}: it ends ({end}) before it starts ({start})", start_s=start_s)
    if role is None:
        return Reject(video, "list", "bad_row", f"{where}: the split is not train, validation or test", start_s=start_s)
    return Segment(video, start_s, end_s, role, labels, where)


def read_segments(name: str, files: Files, segments: Iterable[Segment | Reject]) -> Dataset:
    """Match lists and files, which may be anywhere below the root, and return the data set.

    A file that is named after a video and a time (cut_names) is the segment. A file that is named after the video alone
    contains the whole video, and the segment is a part of it. A segment without a label is in no split. A file has one
    role: a later row with another role is a reject.

    Many files of such data sets no longer exist, so no error is raised for a class without training items or a split
    without test items.

    Raises:
        ConfigError: no segment exists.
    """
    by_stem: dict[str, str] = {}
    for file in files.names:
        by_stem.setdefault(_stem(file), file)
    sources: dict[tuple[str, float | None], Source] = {}
    roles: dict[str, Role] = {}
    claimed: dict[str, Role] = {}
    rejects: list[Reject] = []
    kind: Kind
    for row in segments:
        if isinstance(row, Reject):
            rejects.append(row)
            continue
        cut = next((by_stem[stem] for stem in cut_names(row) if stem in by_stem), None)
        path = cut or by_stem.get(row.video)
        start_s, end_s = (None, None) if cut else (row.start_s, row.end_s)
        if path is None:
            kind, reason = "missing", "there is no file of it"
        elif (path, start_s) in sources:
            kind, reason = "duplicate", f"{path} was listed before"
        elif claimed.setdefault(path, row.role) != row.role:
            kind, reason = "bad_row", f"it is for {row.role}, but {path} is for {claimed[path]}"
        else:
            sources[path, start_s] = Source(path, start_s, end_s, labels=row.labels)
            if row.labels:
                roles[path] = row.role
            continue
        rejects.append(Reject(row.video, "list", kind, f"{row.where}: {reason}", start_s=row.start_s, end_s=row.end_s))
    used = {source.path for source in sources.values()}
    rejects += [*unlisted(files, used, _stem), *files.rejects]
    sound_only = any(PurePosixPath(file).suffix.lower() in SOUND_SUFFIXES for file in used)
    modalities = ("audio",) if sound_only else ALL_MODALITIES
    return make_dataset(name, modalities, files.root, sources.values(), rejects, [Split("1", roles)])


def _stem(path: str) -> str:
    """Return a file's name without suffix, in its own case, because ids of videos differ by case."""
    return PurePosixPath(path).stem


def cut_names(segment: Segment) -> list[str]:
    """Return the names, without suffix, under which downloaders store a segment that they have cut out.

    Seconds with six digits are the form of Kinetics' own tools and, without the end, of VGGSound's. Seconds,
    milliseconds and a Y before the id, alone or with times, are forms of common tools for AudioSet (unverified: there
    is no official form). Names with a time come before those without.
    """
    start_s, end_s = segment.start_s, segment.end_s
    start_ms, end_ms = round(1000 * start_s), round(1000 * end_s)
    times = (
        f"{int(start_s):06d}_{int(end_s):06d}",
        f"{start_s:g}_{end_s:g}",
        f"{start_s:.3f}_{end_s:.3f}",
        f"{start_ms}_{end_ms}",
        f"{int(start_s):06d}",
        f"{start_s:g}",
        f"{start_ms}",
    )
    named = [f"{before}{segment.video}_{time}" for before in ("", "Y") for time in times]
    return [*named, f"Y{segment.video}"]
