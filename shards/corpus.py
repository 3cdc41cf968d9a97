"""What there is: the sources of a corpus, from a folder, a manifest, or a data set in its official layout."""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from shards.errors import ConfigError
from shards.reject import Reject
from shards.source import EVERYWHERE
from shards.source_path import SourcePaths
from shards.split import split_name
from shards.table import TABLE_SUFFIXES, Row, Table, read_table, text_of

_VIDEO = (
    "3g2 3gp asf avi dv f4v flv gif h264 h265 hevc ivf m2ts m2v m4v mjpeg mkv mov mp4 mpeg mpg mts mxf nut "
    "ogm ogv qt rm rmvb ts vob webm wmv y4m"
)
# Sound files are always listed: where pictures are needed they are rejected, which is better than not being mentioned.
_SOUND = "aac aif aiff amr au flac m4a mka mp2 mp3 oga ogg opus wav weba wma"
SOUND_SUFFIXES = frozenset(f".{suffix}" for suffix in _SOUND.split())
MEDIA_SUFFIXES = SOUND_SUFFIXES | {f".{suffix}" for suffix in _VIDEO.split()}
COLUMNS = ("path", "start_s", "end_s", "split")


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
        listing = list_rows(videos, read_table(videos))
    else:
        raise ConfigError(
            f"corpus.videos: {videos} is a file that ends in {videos.suffix!r}. "
            "Give a folder of videos, or a manifest that ends in .csv or .parquet."
        )
    if not listing.sources:
        reasons = "; ".join(f"{reject.source}: {reject.reason}" for reject in listing.rejects[:3])
        raise ConfigError(f"corpus.videos: {videos} holds no video. {reasons or 'It is empty.'}")
    return listing


def check_places(corpus: Path, videos: Path) -> None:
    """Raises ConfigError where a corpus would take the place of the videos that it is made of."""
    if videos.resolve().is_relative_to(corpus.resolve()):
        raise ConfigError(
            f"corpus.path: {corpus} is where corpus.videos ({videos}) lies; the corpus would take its place. "
            "Give the corpus a directory of its own."
        )


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
        rejects.append(Reject(_shown(name), "list", "unreadable", f"the folder cannot be read: {error.strerror}"))

    for place, folders, files in os.walk(folder, onerror=reject_folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found |= {path: True for name in folders if (path := Path(place, name)).is_symlink()}
        found |= {Path(place, name): False for name in files if not name.startswith(".")}
    for path in sorted(found):
        name = path.relative_to(folder).as_posix()
        if not _is_unicode(name):
            rejects.append(Reject(_shown(name), "list", "unreadable", "the file's name is not valid UTF-8: rename it"))
        elif found[path]:
            rejects.append(
                Reject(
                    name, "list", "unreadable", "a link to a folder is not followed: use a manifest for what is in it"
                )
            )
        elif path.suffix.lower() in MEDIA_SUFFIXES:
            labels = {"label": path.parent.name} if label_from_folder and path.parent != folder else {}
            sources.append(Source(name, labels=labels))
        else:
            rejects.append(
                Reject(name, "list", "not_media", f"not a media file by its name ({path.suffix or 'no suffix'})")
            )
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


def list_rows(manifest: Path, table: Table, passed_over: Sequence[str] = ()) -> Listing:
    """The rows of a manifest. A row that makes no sense is a reject that names its number (the first is 1).

    Paths are those of SourcePaths. The columns in `passed_over` are the caller's matter, and not looked at.

    Raises:
        ConfigError: no column `path`, a column that is neither known nor starts with `label` or whose type is of no
            use, or rows on the same span of one file that disagree about its split or a label; says which.
    """
    columns = [column for column in table.columns if column not in passed_over and not _is_index(column, table)]
    _check_columns(manifest, columns)
    _check_types(manifest, columns, table.types)
    paths = SourcePaths(manifest.parent)
    sources: list[Source] = []
    rejects: list[Reject] = []
    seen: dict[tuple[str, float, float | None], tuple[Source, Row]] = {}
    conflicts: list[str] = []
    for row in table.rows:
        name = text_of(row.values["path"]).strip()
        try:
            if row.problem:
                raise ValueError(row.problem)
            source = _source_of({column: row.values[column] for column in columns}, name, paths)
            span = (paths.identity(source.path), source.start_s or 0.0, source.end_s)
            first, earlier = seen.setdefault(span, (source, row))
            if earlier is not row:
                conflicts += _conflict(first, earlier, source, row)
                reason = f"{row.where}: the same path, start_s and end_s stand in an earlier row"
                rejects.append(Reject(name, "list", "duplicate", reason))
                continue
        except ValueError as error:
            rejects.append(Reject(name or row.where, "list", "bad_row", f"{row.where}: {error}"))
            continue
        sources.append(source)
    if conflicts:
        more = f" (and {len(conflicts) - 3} more)" if len(conflicts) > 3 else ""
        raise ConfigError(
            f"{manifest}: {'; '.join(conflicts[:3])}{more}. Rows on the same file and span must agree: correct or "
            "remove one of each pair."
        )
    return Listing(manifest.parent, tuple(sources), tuple(rejects))


def _is_index(column: str, table: Table) -> bool:
    """Whether a column is a pandas frame's index and nothing that a manifest has."""
    return column in table.index and column not in COLUMNS and not column.startswith("label")


def _check_columns(manifest: Path, columns: Sequence[str]) -> None:
    for place, column in enumerate(columns, start=1):
        if (not column.strip() and place == 1) or column.startswith("Unnamed: "):
            raise ConfigError(
                f"{manifest}: column {place} ({column!r}) is the index that pandas writes beside a table. Write the "
                "table without it: to_csv(..., index=False). Or remove the column."
            )
        if not column.strip():
            raise ConfigError(f"{manifest}: column {place} has no name. Name it, or remove it.")
    meant = {column: near for column in columns if (near := _nearest(column)) is not None}
    if "path" not in columns:
        hint = next((f" Did you mean {column!r}? Rename it path." for column in meant if meant[column] == "path"), "")
        raise ConfigError(
            f"{manifest}: no column 'path'; its columns are {', '.join(columns) or '(none)'}."
            f"{hint or ' The first line names the columns; that of the files is called path.'}"
        )
    for column in columns:
        if column not in COLUMNS and not column.startswith("label"):
            hint = (
                f" Did you mean {meant[column]!r}?"
                if column in meant
                else " Rename it label_... to keep it as a label."
            )
            raise ConfigError(f"{manifest}: unknown column {column!r}.{hint}")


def _nearest(column: str) -> str | None:
    """The column that is meant by an unknown name, if one is near."""
    if column in COLUMNS or column.startswith("label"):
        return None
    known = (*COLUMNS, "label")
    if (plain := column.strip().casefold()) in known:
        return plain
    return next(iter(difflib.get_close_matches(column, known, n=1)), None)


def _check_types(manifest: Path, columns: Sequence[str], types: Mapping[str, pa.DataType]) -> None:
    """Raises ConfigError for a Parquet column of which no path, number of seconds or text can be made."""
    for column in columns:
        if column not in types:
            continue
        kind = types[column].value_type if pa.types.is_dictionary(types[column]) else types[column]
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        if column == "path":
            good, wanted = text, "a path is text (string)"
        elif column in ("start_s", "end_s"):
            good, wanted = text or number, "seconds are numbers"
        else:
            good, wanted = not _is_binary(kind), "a split or label is text or a number"
        if not good and not pa.types.is_null(kind):
            raise ConfigError(f"{manifest}: the column {column!r} is of type {types[column]}: {wanted}. Convert it.")


def _is_binary(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _conflict(first: Source, earlier: Row, source: Source, row: Row) -> list[str]:
    """What two rows on the same span say differently, in words; empty if they agree."""
    differing = [
        f"{name} is {first.labels.get(name, '')!r} and {source.labels.get(name, '')!r}"
        for name in sorted({*first.labels, *source.labels})
        if first.labels.get(name) != source.labels.get(name)
    ]
    if split_name(first.split) != split_name(source.split):
        differing.append(f"split is {first.split!r} and {source.split!r}")
    return [f"{earlier.where} and {row.where} are both {first.path}, but {', '.join(differing)}"] if differing else []


def _source_of(row: Mapping[str, object], name: str, paths: SourcePaths) -> Source:
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
    labels = {column: text for column in row if column.startswith("label") and (text := text_of(row[column]))}
    return Source(paths.stored(name), start_s, end_s, text_of(row.get("split")), labels)


def _seconds(row: Mapping[str, object], column: str) -> float | None:
    value = row.get(column)
    if not text_of(value):
        return None
    try:
        seconds = float(str(value))
    except ValueError:
        raise ValueError(f"{column} is {value!r}, not a number of seconds") from None
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{column} is {value!r}; it must be zero or more")
    return seconds
