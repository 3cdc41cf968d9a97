"""What there is: the sources of a corpus, from a folder, a manifest, or a data set in its official layout."""

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shards.errors import ConfigError
from shards.reject import Reject as Reject
from shards.source import EVERYWHERE
from shards.table import TABLE_SUFFIXES, read_table

_VIDEO = (
    "3g2 3gp asf avi dv f4v flv gif h264 h265 hevc ivf m2ts m2v m4v mjpeg mkv mov mp4 mpeg mpg mts mxf nut "
    "ogm ogv qt rm rmvb ts vob webm wmv y4m"
)
# Sound files are always listed: where pictures are needed they are rejected, which is better than not being mentioned.
_SOUND = "aac aif aiff amr au flac m4a mka mp2 mp3 oga ogg opus wav weba wma"
SOUND_SUFFIXES = frozenset(f".{suffix}" for suffix in _SOUND.split())
MEDIA_SUFFIXES = SOUND_SUFFIXES | {f".{suffix}" for suffix in _VIDEO.split()}


@dataclass(frozen=True)
class Source:
    """A video, or the part of one from start_s to end_s, that shall become clips.

    `path` is relative to the listing's root, with forward slashes. Labels have names that start with `label`.
    """

    path: str
    start_s: float | None = None
    end_s: float | None = None
    split: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """Every input of a corpus: sources to try, and rejects that are clear without opening a file."""

    root: Path
    sources: tuple[Source, ...]
    rejects: tuple[Reject, ...]

    @property
    def label_names(self) -> list[str]:
        """The label columns, sorted; `label` itself comes first."""
        return sorted({name for source in self.sources for name in source.labels})


def list_corpus(videos: Path, label_from_folder: bool = False, layout: str | None = None) -> Listing:
    """List a folder (recursively) or a .csv or .parquet manifest. Order does not depend on the file system.

    With a `layout` (shards/datasets/layouts.py): the data set that has it, with the labels of its lists.

    Raises:
        ConfigError: `videos` does not exist, is neither, cannot be read, has not the layout, or holds no input at all.
    """
    if layout is not None:
        from shards.datasets.layouts import read_dataset  # The readers of layouts use what stands here.

        dataset = read_dataset(layout, videos)
        listing = Listing(dataset.root, dataset.sources, dataset.rejects)
    elif videos.is_dir():
        listing = list_folder(videos, label_from_folder)
    elif not videos.exists():
        raise ConfigError(f"corpus.videos: {videos} does not exist. Give a folder of videos or a manifest.")
    elif videos.suffix.lower() in TABLE_SUFFIXES:
        listing = list_rows(videos, *read_table(videos))
    else:
        raise ConfigError(
            f"corpus.videos: {videos} is a file that ends in {videos.suffix!r}. "
            "Give a folder of videos, or a manifest that ends in .csv or .parquet."
        )
    if not listing.sources:
        reasons = "; ".join(f"{reject.source}: {reject.reason}" for reject in listing.rejects[:3])
        raise ConfigError(f"corpus.videos: {videos} holds no video. {reasons or 'It is empty.'}")
    return listing


def list_folder(folder: Path, label_from_folder: bool) -> Listing:
    """Every file below `folder` but hidden ones; what is no media file by its name is rejected, with a reason.

    So is a folder that cannot be read. It is tried again whenever the folder is listed.
    """
    sources, rejects = [], []
    found: dict[Path, bool] = {}  # Whether it is a link to a folder.

    def reject_folder(error: OSError) -> None:
        if error.errno in EVERYWHERE:
            raise error
        name = Path(error.filename).relative_to(folder).as_posix()
        rejects.append(Reject(_shown(name), "list", f"the folder cannot be read: {error.strerror}"))

    for place, folders, files in os.walk(folder, onerror=reject_folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found |= {path: True for name in folders if (path := Path(place, name)).is_symlink()}
        found |= {Path(place, name): False for name in files if not name.startswith(".")}
    for path in sorted(found):
        name = path.relative_to(folder).as_posix()
        if not _is_unicode(name):
            rejects.append(Reject(_shown(name), "list", "the file's name is not valid UTF-8: rename it"))
        elif found[path]:
            rejects.append(Reject(name, "list", "a link to a folder is not followed: use a manifest for what is in it"))
        elif path.suffix.lower() in MEDIA_SUFFIXES:
            labels = {"label": path.parent.name} if label_from_folder and path.parent != folder else {}
            sources.append(Source(name, labels=labels))
        else:
            rejects.append(Reject(name, "list", f"not a media file by its name ({path.suffix or 'no suffix'})"))
    return Listing(folder, tuple(sources), tuple(rejects))


def _shown(name: str) -> str:
    """A name that need not be UTF-8, so that it can be printed."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_unicode(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def list_rows(manifest: Path, columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> Listing:
    """The rows of a manifest. A row that makes no sense is a reject that names its number (the first is 1).

    Raises:
        ConfigError: no column `path`, or a column that is neither known nor starts with `label`.
    """
    columns = list(columns)
    known = ("path", "start_s", "end_s", "split")
    if "path" not in columns:
        raise ConfigError(f"{manifest}: no column 'path'; its columns are {', '.join(columns) or '(none)'}.")
    for column in columns:
        if column not in known and not column.startswith("label"):
            near = difflib.get_close_matches(column, (*known, "label"), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else " Rename it label_... to keep it as a label."
            raise ConfigError(f"{manifest}: unknown column {column!r}.{hint}")
    sources: list[Source] = []
    rejects: list[Reject] = []
    seen: set[tuple[str, float | None, float | None]] = set()
    for number, row in enumerate(rows, start=1):
        name = str(row["path"] or "").strip()
        try:
            source = _source_of(row, name)
            if (source.path, source.start_s, source.end_s) in seen:
                raise ValueError("the same path, start_s and end_s stand in an earlier row")
        except ValueError as error:
            rejects.append(Reject(name or f"row {number}", "list", f"row {number}: {error}"))
            continue
        seen.add((source.path, source.start_s, source.end_s))
        sources.append(source)
    return Listing(manifest.parent, tuple(sources), tuple(rejects))


def _source_of(row: Mapping[str, object], name: str) -> Source:
    """Raises ValueError with the reason for which the row is of no use."""
    if not name:
        raise ValueError("no path")
    if "://" in name or name.startswith("pipe:"):
        raise ValueError("only local files are read, no addresses and no pipes")
    if "\0" in name:
        raise ValueError("the path holds a zero byte")
    start_s, end_s = (_seconds(row, column) for column in ("start_s", "end_s"))
    if end_s is not None and end_s <= (start_s or 0.0):
        raise ValueError(f"end_s ({end_s}) is not after start_s ({start_s or 0.0})")
    split = row.get("split")
    labels = {
        column: str(value)
        for column, value in row.items()
        if isinstance(column, str) and column.startswith("label") and value not in (None, "")
    }
    return Source(name, start_s, end_s, "" if split is None else str(split), labels)


def _seconds(row: Mapping[str, object], column: str) -> float | None:
    value = row.get(column)
    if value in (None, ""):
        return None
    try:
        seconds = float(str(value))
    except ValueError:
        raise ValueError(f"{column} is {value!r}, not a number of seconds") from None
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{column} is {value!r}; it must be zero or more")
    return seconds
