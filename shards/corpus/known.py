"""What is known of source files from earlier surveys: in a committed corpus, and in notes beside it."""

import contextlib
import hashlib
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import SourceError, StageError
from shards.media.source_file import check_readable
from shards.settings import ALL_MODALITIES
from shards.sources.fetched import states_of
from shards.sources.look import UNREADABLE
from shards.sources.surveyed import FIELDS, Surveyed
from shards.store.files import sha256_of
from shards.store.manifest import Manifest, read_manifest

SOURCES = "sources.parquet"
PACKED = ("path", "size", "mtime_ns", "sha256", "reason", "unreadable_at")  # The fields that `pack_known` keeps.
BATCH = 1024  # Rows that are read at once.
_ROW = struct.Struct("<16sqq32s")
_DTYPE = np.dtype([("key", "<u8", (2,)), ("size", "<i8"), ("mtime_ns", "<i8"), ("sha256", "V32")])
_NO_CONTENT = bytes(32)  # In place of a sha256: the file could not be read.


def survey_notes(corpus: Path, modalities: Collection[str]) -> Path:
    """Return the path of the notes: survey results of source files that are not in a committed corpus yet."""
    alone = "" if tuple(modalities) == ALL_MODALITIES else "." + "-".join(modalities)
    return corpus.with_name(f".{corpus.name}{alone}.survey.jsonl")


def modalities_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the modalities of a committed corpus."""
    return tuple(manifest.settings.get("modalities", ALL_MODALITIES))


def known_sources(corpus: Path, modalities: Collection[str], fields: Sequence[str] = FIELDS) -> Iterator[Surveyed]:
    """Yield the survey in a committed corpus of these modalities, as far as its `fields`; nothing if it is damaged.

    A few rows are held.
    """
    manifest = read_manifest(corpus)
    if manifest is None or modalities_of(manifest) != tuple(modalities):
        return
    path, entry = corpus / SOURCES, manifest.files.get(SOURCES)
    with contextlib.suppress(FileNotFoundError, pa.ArrowException, TypeError, StageError):
        if entry is None or sha256_of(path) != entry.sha256:
            return
        with pq.ParquetFile(path) as file:
            columns = [name for name in fields if name in file.schema_arrow.names]
            # Arrow's threads would read ahead, and hold more than a batch.
            for batch in file.iter_batches(BATCH, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    yield Surveyed(**row)


@dataclass(frozen=True)
class Known:
    """Size, time and content of files in earlier surveys, about 80 bytes for each.

    rows: of _DTYPE, in the order in which they were surveyed. order: rows sorted by their keys. keys: the first halves
    of the sorted keys. unreadable: for rows of files that could not be read, the first unreadable byte.
    """

    rows: np.ndarray
    order: np.ndarray
    keys: np.ndarray
    unreadable: dict[int, int]


@dataclass(frozen=True)
class FileState:
    """A file's size, content (sha256, "" if it could not be read) and, then, its first unreadable byte."""

    size: int
    sha256: str
    unreadable_at: int | None = None


def pack_known(surveyed: Iterable[Surveyed]) -> Known:
    """Return the results of earlier surveys in a compact form, in which files are found by their paths."""
    packed, unreadable = bytearray(), dict[int, int]()
    for entry in surveyed:
        if entry.reason.startswith(UNREADABLE):
            unreadable[len(packed) // _ROW.size] = entry.unreadable_at
        content = bytes.fromhex(entry.sha256) or _NO_CONTENT
        packed += _ROW.pack(path_key(entry.path), entry.size, entry.mtime_ns, content)
    rows = np.frombuffer(packed, _DTYPE) if packed else np.zeros(0, _DTYPE)
    order = np.argsort(rows["key"][:, 0], kind="stable")
    return Known(rows, order, rows["key"][order, 0], unreadable)


def look_up(known: Known, root: Path, paths: Sequence[str]) -> list[FileState | None]:
    """Return for files below `root` what is known of them; None for a file that is new or has changed.

    The latest result with the file's present size and time counts. One of a file that could not be read counts while
    the file still cannot be read.
    """
    if not paths:
        return []
    keys = np.frombuffer(b"".join(map(path_key, paths)), "<u8").reshape(-1, 2)
    first = np.searchsorted(known.keys, keys[:, 0], "left").tolist()
    last = np.searchsorted(known.keys, keys[:, 0], "right").tolist()
    found: list[FileState | None] = []
    seen = [path for path, begin, end in zip(paths, first, last, strict=True) if end > begin]
    states = dict(zip(seen, states_of(root, seen), strict=True))
    for path, second, begin, end in zip(paths, keys[:, 1].tolist(), first, last, strict=True):
        state, present = None, states.get(path)
        for place in range(end - 1, begin - 1, -1):
            number = int(known.order[place])
            (_, half), size, mtime_ns, content = known.rows[number].tolist()
            if half != second or (size, mtime_ns) != present:
                continue
            at = known.unreadable.get(number)
            if at is None or is_unreadable(root / path, at):
                state = FileState(size, "" if content == _NO_CONTENT else content.hex(), at)
                break
        found.append(state)
    return found


def is_unreadable(path: Path, at: int) -> bool:
    """Return whether a file still cannot be read at a byte."""
    try:
        check_readable(path, at)
    except SourceError:
        return True
    return False


def path_key(path: str) -> bytes:
    """Return 16 bytes that stand for a path."""
    return hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=16).digest()
