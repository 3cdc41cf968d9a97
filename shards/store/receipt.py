"""Receipts: what a worker has stored of one shard. A stage commits from them, without reading those files again.

In the partial directory of a stage that is done in units lies a folder `.units`:

    receipts/<shard>.json        what is stored of a shard; it is created exclusively, so the first attempt counts
    attempts/<shard>.<random>/   files that a worker is writing, or that are described by a receipt and not yet in place
    errors/                      what workers raised (shards/workers/worker.py)

Only the stage makes `.units`. A worker of an earlier attempt at the stage finds its directory renamed or gone, and
fails.
"""

import errno
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.errors import StageError
from shards.store.fault import fault_point
from shards.store.files import sha256_of, taken_away

UNITS = ".units"
RECEIPTS, ATTEMPTS, ERRORS = "receipts", "attempts", "errors"
WITHOUT_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK)
WRITTEN_S = 5.0  # Within this time a living worker writes a receipt that it has created.
TRIES = 3


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is stored of one shard.

    files: size in bytes and sha256 by name. rows, rejects: rows that are stored, and inputs that were rejected.
    host: the machine that stored it. attempt: the folder in which the files were written. notes: JSON values for the
    stage's summary.
    """

    shard: str
    files: dict[str, tuple[int, str]]
    rows: int
    rejects: int
    host: str
    attempt: str
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass
class NewShard:
    """A shard while a worker writes it into `folder`. The worker sets rows, rejects and notes."""

    folder: Path
    rows: int = 0
    rejects: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    receipt: Receipt | None = None

    @property
    def stored(self) -> Receipt:
        """Return the receipt, after the shard has been stored."""
        assert self.receipt is not None
        return self.receipt


@contextmanager
def new_shard(out: Path, shard: str, known: Mapping[str, tuple[int, str]] | None = None) -> Iterator[NewShard]:
    """Yield a folder for the files of one shard; then store them in `out`, with a receipt.

    known: size and sha256 of files, by name, that another committed directory has: those of this size are not read.

    If another worker has stored the shard meanwhile, its files stay and `receipt` is the other one's: two workers at
    one shard cost time only.

    The commit does not flush files that have a receipt: the caller writes them with `new_file`, which does. Files that
    the stage removes before its commit need no flush.

    Raises:
        StageError: the partial directory `out` is gone.
    """
    attempt = f"{shard}.{uuid.uuid4().hex[:12]}"
    folder = out / UNITS / ATTEMPTS / attempt
    try:
        folder.mkdir()
        new = NewShard(folder)
        yield new
        written = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {name: _entry(path, name, known or {}) for path in written if (name := str(path.relative_to(folder)))}
        receipt = Receipt(shard, files, new.rows, new.rejects, platform.node(), attempt, new.notes)
        fault_point("before receipt", shard)
        new.receipt = _publish(out, receipt)
        fault_point("after receipt", shard)
        _put_in_place(out, new.receipt)
    except FileNotFoundError as error:
        if not (out / UNITS).exists():
            raise taken_away(out) from error
        raise
    finally:
        _remove_folder(folder)


def _entry(path: Path, name: str, known: Mapping[str, tuple[int, str]]) -> tuple[int, str]:
    """Return size and sha256 of a file. name: its key in `known`."""
    size = path.stat().st_size
    given, sha256 = known.get(name, (-1, ""))
    return size, sha256 if given == size else sha256_of(path)


def _remove_folder(folder: Path) -> None:
    """Remove the folder of an attempt, which is empty if its files were stored. What is left the commit removes."""
    try:
        folder.rmdir()
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(out: Path, receipt: Receipt) -> Receipt:
    """Create a shard's receipt, and return it; if there already is one, return that one."""
    path = receipt_path(out, receipt.shard)
    temporary, damaged = (path.with_name(f".{receipt.attempt}.{suffix}") for suffix in ("tmp", "damaged"))
    data = json.dumps({name: getattr(receipt, name) for name in Receipt.__slots__}, ensure_ascii=False)
    try:
        # Not flushed to disk: a receipt that is lost or empty after a power failure costs its shard, nothing else.
        temporary.write_text(data, encoding="utf-8")
        for _ in range(TRIES):
            _create(path, temporary, data)
            if (stored := _read_patiently(path)) is not None:
                return receipt if stored.attempt == receipt.attempt else stored
            with suppress(FileNotFoundError):  # Its writer died in the middle, or the disk has damaged it.
                os.rename(path, damaged)
    finally:
        temporary.unlink(missing_ok=True)
        damaged.unlink(missing_ok=True)
    raise StageError(f"{path} cannot be read, though it was written {TRIES} times. Check the disk, and run this again.")


def _create(path: Path, temporary: Path, data: str) -> None:
    """Create a receipt with all of its content at once, where there are links; nothing if it exists."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise
        # Readers may see it before it has all of its content. A writer that dies in between leaves it so.
        with suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
            file.write(data)


def _read_patiently(path: Path) -> Receipt | None:
    """Return the receipt in a file; None if the file still has none after the time that a writer needs."""
    deadline = time.monotonic() + WRITTEN_S
    while (receipt := _parsed(path)) is None and time.monotonic() < deadline:
        time.sleep(WRITTEN_S / 50)
    return receipt


def _put_in_place(out: Path, receipt: Receipt) -> None:
    """Rename a receipt's files from their attempt into `out`. A worker and the stage may do this at the same time."""
    for name in receipt.files:
        with suppress(FileNotFoundError):  # It is in place; `_is_stored` finds out if it is not.
            if (folder := (out / name).parent) != out:
                folder.mkdir(exist_ok=True)  # Not `out`: another process may have renamed it.
            os.rename(out / UNITS / ATTEMPTS / receipt.attempt / name, out / name)


def _is_stored(out: Path, receipt: Receipt) -> bool:
    """Return whether all files of a receipt are in place with their sizes."""
    try:
        return all((out / name).stat().st_size == size for name, (size, _) in receipt.files.items())
    except FileNotFoundError:
        return False


def receipt_path(out: Path, shard: str) -> Path:
    """Return the path of the receipt of a shard."""
    return out / UNITS / RECEIPTS / f"{shard}.json"


def read_receipt(out: Path, shard: str) -> Receipt | None:
    """Return the receipt of a shard; None if there is none, or if it is damaged."""
    return _parsed(receipt_path(out, shard))


def _parsed(path: Path) -> Receipt | None:
    try:
        values = json.loads(path.read_bytes())
        files = {name: (int(size), str(digest)) for name, (size, digest) in values["files"].items()}
        return Receipt(**{**values, "files": files})
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None


def receipts_of(out: Path, shards: Iterable[str]) -> Iterator[Receipt]:
    """Yield the receipts of shards, in this order, one at a time.

    Raises:
        StageError: a shard has no receipt.
    """
    for shard in shards:
        receipt = read_receipt(out, shard)
        if receipt is None:
            raise StageError(f"{receipt_path(out, shard)} is missing or damaged. Nothing is lost: run this again.")
        yield receipt


def settle(out: Path, receipt: Receipt) -> bool:
    """Put the files of a receipt in place if its worker has not, and return whether all are there."""
    if _is_stored(out, receipt):
        return True
    _put_in_place(out, receipt)  # Its worker died after the receipt, or is about to do the same.
    return _is_stored(out, receipt)
