"""A source file from the operating system's point of view: whether it exists, is unchanged, and can be read.

Errors of a decoder are mostly caused by the file. Errors of the operating system are caused by the machine, and may be
temporary.
"""

import errno
import hashlib
import os
import stat
from pathlib import Path

from shards.errors import MediaError, SourceError

BLOCK = 1 << 20
SPARSE = 1 << 40  # Bytes. Holes of this size are not hashed.
# Errors of this process or of the whole machine, not of a file: the stage cannot continue.
EVERYWHERE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def stat_of(path: str | Path) -> tuple[int, int]:
    """Return size in bytes and modification time in ns; (-1, -1) if there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # A name that no file can have.
        return -1, -1
    return status.st_size, status.st_mtime_ns


def check_readable(path: Path, at: int = 0, size: int = 1) -> None:
    """Raise SourceError if there is no file, or if one of its `size` bytes from offset `at` on cannot be read."""
    end = at + size
    try:
        if stat.S_ISREG(os.stat(path).st_mode):  # Opening a pipe would wait for a writer.
            with path.open("rb", buffering=0) as file:
                file.seek(at)
                while at < end and (block := file.read(min(BLOCK, end - at))):
                    at += len(block)
    except OSError as error:
        raise _trouble(error, at) from error


def hash_source(path: Path) -> str:
    """Return the sha256 of all bytes, as 64 hex digits; "" if there is no such file, or it is not a regular one.

    Raises:
        SourceError: it cannot be read, tried twice; `at` is the first unreadable byte.
        MediaError: it consists mostly of holes.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise _trouble(error) from error
    if not stat.S_ISREG(status.st_mode):
        return ""
    if status.st_size > SPARSE and status.st_blocks * 512 < status.st_size // 2:
        raise MediaError(f"it is {status.st_size >> 30} GiB long, most of it holes: a copy that was broken off")
    try:
        return read_through(path)
    except SourceError:
        return read_through(path)


def read_through(path: Path) -> str:
    """Return the sha256 of all bytes, as 64 hex digits. Raises SourceError if one of them cannot be read."""
    digest, at = hashlib.sha256(), 0
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK):
                digest.update(block)
                at += len(block)
    except OSError as error:
        raise _trouble(error, at) from error
    return digest.hexdigest()


def _trouble(error: OSError, at: int = 0) -> SourceError:
    if error.errno in EVERYWHERE:
        raise error
    return SourceError(error.strerror or str(error), at)
