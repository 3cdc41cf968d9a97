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
from collections.abc import Collection, Iterable, Iterator, Mapping
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
def new_shard(out: Path, shard: str) -> Iterator[NewShard]:
    """Yield a folder for the files of one shard; then store them in `out`, with a receipt.

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
        files = {
            path.name: (path.stat().st_size, sha256_of(path)) for path in sorted(folder.iterdir()) if path.is_file()
        }
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
        try:
            folder.rmdir()  # Its files are in place.
        except OSError:
            _remove_folder(folder)


def _remove_folder(folder: Path) -> None:
    """Remove the folder of an attempt, which is empty if its files were stored. What is left the commit removes."""
    try:
        folder.rmdir()
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(out: Path, receipt: Receipt) -> Receipt:
    """Create a shard's receipt, and return it; if there already is one, return that one."""
    path = _receipt_path(out, receipt.shard)
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
            os.rename(out / UNITS / ATTEMPTS / receipt.attempt / name, out / name)


def _is_stored(out: Path, receipt: Receipt) -> bool:
    """Return whether all files of a receipt are in place with their sizes."""
    try:
        return all((out / name).stat().st_size == size for name, (size, _) in receipt.files.items())
    except FileNotFoundError:
        return False


def _receipt_path(out: Path, shard: str) -> Path:
    return out / UNITS / RECEIPTS / f"{shard}.json"


def read_receipt(out: Path, shard: str) -> Receipt | None:
    """Return the receipt of a shard; None if there is none, or if it is damaged."""
    return _parsed(_receipt_path(out, shard))


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
            raise StageError(f"{_receipt_path(out, shard)} is missing or damaged. Nothing is lost: run this again.")
        yield receipt


def add_up(receipts: Iterable[Receipt], sizes: Mapping[str, int]) -> tuple[int, int, dict[str, Any]]:
    """Return the sums of rows and rejects, and the notes: values that differ between receipts are joined by commas.

    sizes: shard -> its inputs.

    Raises:
        StageError: rows and rejects of a shard do not add up to its inputs.
    """
    rows = rejects = 0
    notes: dict[str, dict[Any, None]] = {}
    for receipt in receipts:
        if receipt.rows + receipt.rejects != sizes[receipt.shard]:
            raise StageError(
                f"shard {receipt.shard}: {receipt.rows} rows and {receipt.rejects} rejects for {sizes[receipt.shard]} "
                "in. Nothing is committed. This is a defect of xdc; please report it."
            )
        rows, rejects = rows + receipt.rows, rejects + receipt.rejects
        for name, value in receipt.notes.items():
            notes.setdefault(name, {})[value] = None
    return (
        rows,
        rejects,
        {
            name: next(iter(values)) if len(values) == 1 else ", ".join(sorted(map(str, values)))
            for name, values in notes.items()
        },
    )


def stored_shards(out: Path) -> set[str]:
    """Return the names of all shards that have a receipt."""
    try:
        with os.scandir(out / UNITS / RECEIPTS) as entries:
            return {entry.name.removesuffix(".json") for entry in entries if not entry.name.startswith(".")}
    except FileNotFoundError as error:
        raise taken_away(out) from error


def begin_units(out: Path, shards: Collection[str]) -> set[str]:
    """Make the folder `.units` of a stage that begins or continues; return the shards that are stored.

    Files that receipts describe are put in place. Damaged receipts, unfinished attempts, errors, and files of shards
    without a receipt (they may be of an older version) are removed.
    """
    units = out / UNITS
    for folder in (units, *(units / name for name in (RECEIPTS, ATTEMPTS, ERRORS))):
        folder.mkdir(exist_ok=True)  # Not `out`: another process may have renamed it.
    stored = set()
    for shard in stored_shards(out):
        receipt = read_receipt(out, shard)
        if receipt is not None and shard in shards and settle(out, receipt):
            stored.add(shard)
        else:
            _receipt_path(out, shard).unlink(missing_ok=True)
    for name in (ATTEMPTS, ERRORS):
        shutil.rmtree(units / name)
        (units / name).mkdir()
    if missing := set(shards) - stored:
        with os.scandir(out) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            if name.split(".", 1)[0] in missing:
                (out / name).unlink()
    return stored


def settle(out: Path, receipt: Receipt) -> bool:
    """Put the files of a receipt in place if its worker has not, and return whether all are there."""
    if _is_stored(out, receipt):
        return True
    _put_in_place(out, receipt)  # Its worker died after the receipt, or is about to do the same.
    return _is_stored(out, receipt)


def stored_files(out: Path) -> Mapping[str, tuple[int, str]]:
    """Return size and sha256 of all files that receipts describe, by name. Reads the receipts only.

    Raises:
        StageError: a file is not in place, or has another size.
    """
    files: dict[str, tuple[int, str]] = {}
    if not (out / UNITS).is_dir():
        return files
    for receipt in receipts_of(out, sorted(stored_shards(out))):
        if not settle(out, receipt):
            raise StageError(
                f"{out}: files of shard {receipt.shard} are missing or have another size than its receipt says. "
                "Nothing is committed: run this again."
            )
        files.update(receipt.files)
    return files
