"""Source files in object stores: what they look like, and copies of them while a child process works on one."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from shards.errors import MachineError, SourceError, StageError
from shards.media.sandbox import Fetch
from shards.media.source_file import stat_of
from shards.objects.bucket import SCHEME, Bucket, opened
from shards.settings import is_url

THREADS = 16
TRIES = 2  # For an object that is replaced while it is fetched.


class Content(NamedTuple):
    """What was fetched: size in bytes, a number that stands for the ETag, and the sha256 of all bytes."""

    size: int
    mark: int
    sha256: str


def located(root: str | Path, name: str) -> str:
    """Return the path of a source, or its URL."""
    return name if is_url(name) else os.path.join(root, name)


def _parts(url: str) -> tuple[Bucket, str]:
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    return opened(SCHEME + bucket), key


def state_of(root: str | Path, name: str) -> tuple[int, int]:
    """Return a source's size in bytes and its time in ns, or for an object a number that stands for its ETag.

    (-1, -1) if there is no such file or object.

    Raises:
        MachineError: the object store cannot be read.
    """
    if not is_url(name):
        return stat_of(located(root, name))
    bucket, key = _parts(name)
    found = bucket.find(key)
    return (-1, -1) if found is None else (found.size, _mark(found.etag))


def states_of(root: str | Path, names: Sequence[str]) -> list[tuple[int, int]]:
    """Return `state_of` of sources, of objects many at the same time."""
    if not any(map(is_url, names)):
        return [state_of(root, name) for name in names]
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(lambda name: state_of(root, name), names))


def _mark(etag: str) -> int:
    return int.from_bytes(hashlib.blake2b(etag.encode(), digest_size=8).digest()) >> 1


def fetching(folder: Path, fetched: Callable[[str, Content], None] | None = None) -> Fetch:
    """Return a function for `ordered_map` that lets a job whose second argument is a URL work on a copy in `folder`.

    The first argument of such a job is the folder of its source. The copy is removed when the job has ended. fetched:
    is called with the URL and what was found there.
    """

    def fetch(root: str, name: str, *others: Any) -> AbstractContextManager[tuple[Any, ...]] | None:
        return _copied(folder, name, others, fetched) if is_url(name) else None

    return fetch


@contextmanager
def _copied(
    folder: Path, url: str, others: tuple[Any, ...], fetched: Callable[[str, Content], None] | None
) -> Iterator[tuple[Any, ...]]:
    folder.mkdir(parents=True, exist_ok=True)
    # The end of its name is that of the object: libraries look at it.
    path = folder / f"{uuid.uuid4().hex[:12]}{Path(url).suffix[:16]}"
    try:
        content = _download(url, path)
        if fetched is not None:
            fetched(url, content)
        yield (str(folder), path.name, *others)
    finally:
        path.unlink(missing_ok=True)


def _download(url: str, path: Path) -> Content:
    """Copy an object to a file.

    Raises:
        SourceError: it does not exist, or is replaced again and again.
        MachineError: the disk is too small for it, or the object store cannot be read.
    """
    bucket, key = _parts(url)
    for _ in range(TRIES):
        before = bucket.find(key)
        if before is None:
            raise SourceError(f"there is no object {url}")
        free = shutil.disk_usage(path.parent).free
        if before.size > free:
            raise MachineError(
                f"{url} has {before.size >> 20} MB, and {path.parent} has {free >> 20} MB free for its copy while it "
                "is decoded. Free some, and run the same command again: what is finished is kept."
            )
        digest = hashlib.sha256()
        try:
            with path.open("wb") as file:
                for data in bucket.parts(key, before.size):
                    digest.update(data)
                    file.write(data)
            if bucket.find(key) == before:
                return Content(before.size, _mark(before.etag), digest.hexdigest())
        except MachineError:
            raise
        except StageError:  # It was replaced by a shorter one, or removed.
            continue
    raise SourceError(f"{url} was replaced while it was read, {TRIES} times")
