"""The objects below a URL s3://BUCKET/PREFIX: listed, read and written, with errors that say what to do."""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from shards.errors import ConfigError, MachineError, StageError
from shards.objects.answers import BEYOND, LOST, REFUSED, answer_of, cause_of
from shards.objects.credentials import NO_CREDENTIALS, endpoint, store_settings

SCHEME = "s3://"
RETRY_S = 120.0  # How long a server that does not answer is waited for.
PAUSE_S = 1.0  # Before a request is repeated.
CONNECT_S, REQUEST_S = 5, 30  # A connection that stalls is given up while there is time for others.
JOIN = 16 * 1024  # Ranges with gaps of at most so many bytes are read as one: a request costs as much as these bytes.
PART = 4 << 20  # Bytes of one request for a file: few enough for REQUEST_S, also where the network is slow.
UPLOADED = 8 << 20  # Bytes of one part of an upload.
URL = re.compile(r"s3://(?P<bucket>[^/]+)(?:/(?P<prefix>.*?))?/*")
T = TypeVar("T")

# A process that was forked after object stores were used has their locks, but not their threads, and would wait for
# ever.
_used = _forked = False


def _note_fork() -> None:
    global _forked
    _forked = _used


os.register_at_fork(after_in_child=_note_fork)


class Stored(NamedTuple):
    """An object: its size in bytes, and its ETag, which is another one when it was written again."""

    size: int
    etag: str


class NotThere(StageError):
    """Report that there is no such object."""


class Bucket:
    """The objects whose names begin with the prefix of a URL. Safe for threads; a process needs its own.

    Every method raises:
        NotThere: there is no such object.
        StageError: an object is shorter than it should be; or this process was forked from one that had used object
            stores.
        MachineError: there are no credentials, no permission, no bucket, or no server in time.
    """

    def __init__(self, url: str, retry_s: float | None = None) -> None:
        """Open the bucket of a URL. retry_s: how long a server that does not answer is waited for, RETRY_S by default.

        Raises ConfigError if `url` is not of an object store, or the package obstore is not installed.
        """
        global _used
        _check_not_forked(url)
        match = URL.fullmatch(url)
        if match is None:
            raise ConfigError(f"{url} is not the URL of a folder in an object store, such as s3://bucket/folder.")
        try:
            from obstore.exceptions import BaseError
            from obstore.store import S3Store
        except ImportError as error:
            raise ConfigError(
                f"{url}: object stores need the package obstore ({error}). Install it: pip install 'xdc-pipeline[s3]'"
            ) from error
        self.url = f"{SCHEME}{match['bucket']}" + (f"/{match['prefix']}" if match["prefix"] else "")
        self._retry_s = RETRY_S if retry_s is None else retry_s
        settings = store_settings(self.url)
        self._address = endpoint(settings)
        _used = True
        try:
            self._store: Any = S3Store(
                match["bucket"],
                prefix=match["prefix"] or None,
                **settings,
                client_options={
                    "allow_http": self._address.startswith("http://"),
                    "connect_timeout": timedelta(seconds=CONNECT_S),
                    "timeout": timedelta(seconds=REQUEST_S),
                },
                retry_config={
                    "max_retries": 1000,
                    "retry_timeout": timedelta(seconds=self._retry_s / 2),  # The other half is for `_done`.
                    "backoff": {"max_backoff": timedelta(seconds=2)},
                },
            )
        except BaseError as error:  # Of what the environment says.
            why = NO_CREDENTIALS if "Missing" in str(error) else str(error).partition("\n")[0]
            raise MachineError(f"{self.url}: {why}.") from None

    def objects(self, folder: str | None = None) -> dict[str, Stored]:
        """Return all objects by name, relative to the URL. folder: only those in it, such as tars/."""
        import obstore

        def listed() -> dict[str, Stored]:
            pages = obstore.list(self._store, prefix=folder, chunk_size=1000)
            return {meta["path"]: Stored(meta["size"], str(meta["e_tag"])) for page in pages for meta in page}

        return self._done("", listed)

    def read(self, name: str, size: int | None = None) -> bytes:
        """Return all bytes of an object, read part by part. size: how many they are, if that is known."""
        return b"".join(self.parts(name, self.look(name).size if size is None else size))

    def parts(self, name: str, size: int) -> Iterator[bytes]:
        """Yield the bytes of an object of `size` bytes, at most PART at a time."""
        for start in range(0, size, PART):
            yield self.ranges(name, [start], [min(PART, size - start)])[0]

    def look(self, name: str) -> Stored:
        """Return an object's size and ETag."""
        import obstore
        from obstore.exceptions import BaseError

        def looked() -> Stored:
            # Not HEAD: a server that refuses it cannot say why.
            try:
                meta = obstore.get(self._store, name, options={"range": (0, 1)}).meta
            except BaseError as error:
                if answer_of(error) not in BEYOND:
                    raise
                meta = obstore.head(self._store, name)  # It is empty.
            return Stored(meta["size"], str(meta["e_tag"]))

        return self._done(name, looked)

    def ranges(self, name: str, starts: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Return ranges of an object: near ones are read together, others at the same time."""
        import obstore

        def got() -> list[bytes]:
            return [
                bytes(data)
                for data in obstore.get_ranges(self._store, name, starts=starts, lengths=sizes, coalesce=JOIN)
            ]

        found = self._done(name, got)
        for data, size, start in zip(found, sizes, starts, strict=True):
            if len(data) != size:
                raise self._short(name, start + len(data))
        return found

    def download(self, name: str, path: Path, size: int) -> None:
        """Write an object of `size` bytes to a file, part by part."""
        with path.open("wb") as file:
            file.writelines(self.parts(name, size))

    def find(self, name: str) -> Stored | None:
        """Return an object's size and ETag; None if it does not exist."""
        try:
            return self.look(name)
        except NotThere:
            return None

    def fetch(self, name: str) -> tuple[bytes, str] | None:
        """Return all bytes of an object and its ETag; None if it does not exist."""
        import obstore

        def got() -> tuple[bytes, str]:
            found = obstore.get(self._store, name)
            return bytes(found.bytes()), str(found.meta["e_tag"])

        try:
            return self._done(name, got)
        except NotThere:
            return None

    def put(self, name: str, data: bytes, etag: str | None = None) -> str | None:
        """Write an object that does not exist; with `etag`, replace one that has this ETag.

        Return the new ETag; None if the object exists, or has another ETag.

        If the answer to a request was lost, and it was repeated, an object that this call has written is in the way:
        the caller compares.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        def written() -> str | None:
            mode: Any = {"e_tag": etag} if etag else "create"
            try:
                return str(obstore.put(self._store, name, data, mode=mode)["e_tag"])
            except (AlreadyExistsError, PreconditionError):
                return None

        return self._done(name, written)

    def upload(self, name: str, path: Path) -> None:
        """Write a file as an object, part by part, and replace one that exists."""
        import obstore

        self._done(name, lambda: obstore.put(self._store, name, path, chunk_size=UPLOADED, max_concurrency=4))

    def sha256(self, name: str, size: int) -> str:
        """Return the sha256 of an object of `size` bytes, which is read part by part."""
        digest = hashlib.sha256()
        for data in self.parts(name, size):
            digest.update(data)
        return digest.hexdigest()

    def _done(self, name: str, work: Callable[[], T]) -> T:
        """Return the result of `work`; repeat it while the connection breaks. obstore repeats requests, too.

        The time counts from the first failure: an upload may take longer than that.
        """
        from obstore.exceptions import BaseError

        _check_not_forked(self.url)
        end: float | None = None
        while True:
            try:
                return work()
            except (BaseError, FileNotFoundError) as error:
                answer = answer_of(error)
                now = time.monotonic()
                end = now + self._retry_s / 2 if end is None else end
                if (answer and answer not in LOST) or now >= end:
                    raise self._explained(name, error, answer) from None
                time.sleep(PAUSE_S)

    def _explained(self, name: str, error: Exception, answer: str) -> StageError:
        where = f"{self.url}/{name}" if name else self.url
        if answer in BEYOND:
            return self._short(name, self.look(name).size)
        if answer in REFUSED:
            return MachineError(f"{where}: {REFUSED[answer]}.")
        if isinstance(error, FileNotFoundError):
            return NotThere(f"{where} is not there. Was it deleted, or is the URL wrong?")
        if answer == "credentials":
            return MachineError(f"{where}: {NO_CREDENTIALS}.")
        server = self._address or "the server"
        if not answer:
            why = cause_of(error, REQUEST_S)
            return MachineError(
                f"{where}: {server} does not answer, in {self._retry_s:.0f} s ({why}). What is finished is kept: "
                "when it is there again, run the same command again."
            )
        return MachineError(f"{where}: {server} refuses: {answer}. What is finished is kept.")

    def _short(self, name: str, size: int) -> StageError:
        return StageError(
            f"{self.url}/{name} has only {size} bytes, and should have more: it was replaced or cut. Bring it back, or "
            "write the corpus there again."
        )


def opened(url: str) -> Bucket:
    """Return the bucket of a URL, with its connections, for all readers of this process."""
    return _opened(url, tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))


@lru_cache(maxsize=64)
def _opened(url: str, environment: tuple[tuple[str, str], ...]) -> Bucket:
    return Bucket(url)


def _check_not_forked(url: str) -> None:
    if _forked:
        raise StageError(
            f"{url}: this process was forked from one that had used an object store, and can use none. Start it with "
            "the method spawn or forkserver of multiprocessing."
        )
