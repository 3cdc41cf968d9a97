"""A source file as the system sees it: whether it is there, the same as before, and can be read.

What a decoder says of a file is mostly the file's fault. What the system says is the machine's, and may pass.
"""

import errno
import hashlib
import os
import stat
from pathlib import Path

from shards.errors import MediaError, SourceError

BLOCK = 1 << 20
SPARSE = 1 << 40  # Bytes. Nobody waits for holes of this size to be hashed.
# Trouble of this process or of the whole machine: no file's, and the stage cannot go on.
EVERYWHERE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def stat_of(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in ns; (-1, -1) where there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # A name that no file can have.
        return -1, -1
    return status.st_size, status.st_mtime_ns


def check_readable(path: Path, at: int = 0, size: int = 1) -> None:
    """Raises SourceError where there is no file, or one of the `size` bytes from `at` on that it has cannot be read."""
    end = at + size
    try:
        if stat.S_ISREG(os.stat(path).st_mode):  # To open a pipe would wait for somebody who writes to it.
            with path.open("rb", buffering=0) as file:
                file.seek(at)
                while at < end and (block := file.read(min(BLOCK, end - at))):
                    at += len(block)
    except OSError as error:
        raise _trouble(error, at) from error


def hash_source(path: Path) -> str:
    """sha256 of all bytes, as 64 hex digits; "" where there is no such file, or it is not a regular one.

    Raises:
        SourceError: it cannot be read, tried twice; tells from which byte on.
        MediaError: it is next to nothing but holes.
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
    """sha256 of all bytes. Raises SourceError where one of them cannot be read."""
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
