"""Ranges of a corpus's tars, which lie beside its index or in an object store."""

import hashlib
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile, gettempdir
from typing import Any, NamedTuple, Protocol

from shards.errors import MachineError, StageError
from shards.objects.bucket import opened
from shards.objects.cache import Cache
from shards.store.checked_read import FETCHED, read_stored_json

# In the directory of a corpus whose tars lie elsewhere: the URL, size and sha256 of each tar, and, if the corpus was
# written there by xdc and not copied, its generation (shards/objects/generation.py).
TARS = FETCHED
TARS_THERE = "tars/"  # The folder of tars that xdc has written, below the URL of their corpus.
MAX_OPEN = 64
THREADS = 16  # Of a process, each for one tar.
REMEDY = "Rebuild it: xdc stage shard RUN --force"


class Part(NamedTuple):
    """A range of a tar. what: for messages. sha256: of `mark` and the range's bytes, or NAMED_BY bytes of this sha256;
    None if it is not known.
    """

    what: str
    offset: int
    size: int
    sha256: bytes | None
    mark: bytes = b""


class Tars(Protocol):
    """Reads parts of tars. Every part is checked against its sha256.

    batched: whether reading many parts at once is faster than one after the other.
    """

    batched: bool

    def read(self, wanted: Mapping[str, Sequence[Part]]) -> dict[str, list[bytes]]:
        """Return the bytes of parts of tars, by shard.

        Raises:
            StageError: the tar is missing, shorter than its index says, or damaged.
        """
        ...

    def close(self) -> None:
        """Close all files."""
        ...


def open_tars(corpus: Path, cache: Cache | None = None) -> Tars:
    """Return the tars of a corpus. cache: for those in an object store.

    Raises:
        StageError: it cannot be read where they lie.
    """
    return StoredTars(corpus, cache) if (corpus / TARS).exists() else LocalTars(corpus)


def tars_elsewhere(corpus: Path) -> dict[str, Any] | None:
    """Return the content of tars.json: url, manifest (ETag), tars (size and sha256 by name), generation.

    None without it.

    Raises StageError as `read_stored` does.
    """
    path = corpus / TARS
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _read_tars(path, status.st_ino, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _read_tars(path: Path, inode: int, mtime_ns: int, size: int) -> dict[str, Any]:
    """Read tars.json once while it is the same file, because tars are verified one by one."""
    found: dict[str, Any] = read_stored_json(path, "shard")
    return found


def tar_object(name: str, sha256: str) -> str:
    """Return the name of the object of a tar that xdc has written: it can have no other content."""
    return f"{TARS_THERE}{name.removesuffix('.tar')}.{sha256}.tar"


def object_of(elsewhere: dict[str, Any], name: str) -> str:
    """Return the name of a tar's object. elsewhere: the content of tars.json."""
    return tar_object(name, elsewhere["tars"][name]["sha256"]) if elsewhere.get("generation") else name


class LocalTars:
    """Tars in the corpus's directory. At most 64 are open. Do not use it across a fork."""

    batched = False

    def __init__(self, corpus: Path) -> None:
        self._corpus = corpus
        self._open: OrderedDict[str, int] = OrderedDict()

    def read(self, wanted: Mapping[str, Sequence[Part]]) -> dict[str, list[bytes]]:
        """Return the bytes of parts of tars, as described in `Tars`."""
        return {shard: [self._part(shard, part) for part in parts] for shard, parts in wanted.items()}

    def _part(self, shard: str, part: Part) -> bytes:
        data = os.pread(self._descriptor(shard), max(0, part.size), part.offset)
        if len(data) != part.size:
            raise StageError(f"{self._corpus / shard}.tar ends before the {part.what} does: the file was cut. {REMEDY}")
        if not _is_right(data, part):
            raise StageError(f"{self._corpus / shard}.tar is damaged: the {part.what} is not what was stored. {REMEDY}")
        return data

    def _descriptor(self, shard: str) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        path = self._corpus / f"{shard}.tar"
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise StageError(f"{path} cannot be opened ({error.strerror}). {REMEDY}") from error
        self._open[shard] = descriptor
        if len(self._open) > MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def close(self) -> None:
        """Close all tars."""
        while self._open:
            os.close(self._open.popitem()[1])


class StoredTars:
    """Tars in an object store, of a corpus whose other files are in a directory here."""

    batched = True

    def __init__(self, corpus: Path, cache: Cache | None) -> None:
        self._cache = cache
        self._threads: ThreadPoolExecutor | None = None
        elsewhere = tars_elsewhere(corpus)
        assert elsewhere is not None
        self._elsewhere = elsewhere
        self._bucket = opened(elsewhere["url"])

    def read(self, wanted: Mapping[str, Sequence[Part]]) -> dict[str, list[bytes]]:
        """Return the bytes of parts of tars, as described in `Tars`: those of one tar in one call, of all at once."""
        if len(wanted) == 1:
            return {shard: self._of_tar(shard, parts) for shard, parts in wanted.items()}
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS)
        return dict(zip(wanted, self._threads.map(self._of_tar, wanted, wanted.values()), strict=True))

    def _of_tar(self, shard: str, parts: Sequence[Part]) -> list[bytes]:
        name, cache = object_of(self._elsewhere, f"{shard}.tar"), self._cache
        found = [cache.get(part.sha256, part.mark) if cache is not None and part.sha256 else None for part in parts]
        lacking = [number for number, data in enumerate(found) if data is None]
        if lacking:
            starts, sizes = zip(*(parts[number][1:3] for number in lacking), strict=True)
            for number, data in zip(lacking, self._bucket.ranges(name, starts, sizes), strict=True):
                part = parts[number]
                if not _is_right(data, part):
                    raise changed(self._elsewhere, name, part.what)
                if cache is not None and part.sha256:
                    cache.put(part.sha256, data)
                found[number] = data
        return [data for data in found if data is not None]

    def close(self) -> None:
        """End the threads. Connections end with the process."""
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None


def changed(elsewhere: dict[str, Any], name: str, what: str) -> StageError:
    """Return the error for an object that is not what the index says. elsewhere: the content of tars.json."""
    mend = "Was another corpus copied there? Then `xdc stage shard RUN` reads its index. Else bring the tar back."
    if elsewhere.get("generation"):
        mend = "Bring it back from a copy, or cut all clips again: xdc stage shard RUN --force"
    return StageError(
        f"{elsewhere['url']}/{name} is not what the corpus's index says (sha256 of the {what}): it has changed under "
        f"its name. {mend}"
    )


def _is_right(data: bytes, part: Part) -> bool:
    return part.sha256 is None or hashlib.sha256(part.mark + data).digest().startswith(part.sha256)


@contextmanager
def local_tar(corpus: Path, shard: str) -> Iterator[Path]:
    """Yield the path of a tar; one in an object store is fetched for as long as it is needed.

    Raises:
        StageError: it is not there, has another size, or its sha256 is not that in the manifest.
        MachineError: the disk for temporary files is too small for it, or the object store cannot be read.
    """
    elsewhere, name = tars_elsewhere(corpus), f"{shard}.tar"
    if elsewhere is None:
        yield corpus / name
        return
    entry, stored = elsewhere["tars"][name], object_of(elsewhere, name)
    free = shutil.disk_usage(gettempdir()).free
    if entry["size"] > free:
        raise MachineError(
            f"{elsewhere['url']}/{stored} has {entry['size'] >> 20} MB, and {gettempdir()} has {free >> 20} MB free "
            "for its copy while it is checked. Free some, or set TMPDIR to a folder on a larger disk."
        )
    with NamedTemporaryFile(prefix="xdc-", suffix=".tar") as file:
        path = Path(file.name)
        try:
            opened(elsewhere["url"]).download(stored, path, entry["size"])
        except OSError as error:
            raise MachineError(
                f"{path} cannot be written ({error.strerror}): it is the copy of {elsewhere['url']}/{stored} while "
                "this is checked. Free some room, or set TMPDIR to a folder on a larger disk."
            ) from error
        with path.open("rb") as copy:
            if hashlib.file_digest(copy, "sha256").hexdigest() != entry["sha256"]:
                raise changed(elsewhere, stored, "file")
        yield path
