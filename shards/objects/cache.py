"""A cache on a machine's own disk of what was read from object stores, with a limit. Any number of processes share it.

An entry is a file whose name is the beginning of the sha256 of its bytes, in one of 256 folders by its first two
digits: it cannot be outdated, and a damaged one is found when it is read. Each folder keeps 1/256 of the limit: whoever
adds an entry holds the folder's lock, and first removes others, chosen at random. (Training draws clips at random: the
entry that was used longest ago is as likely to be needed next as any other. And of a corpus that is read in order again
and again, and does not fit, the last entries used are those needed last.)

A process that is killed leaves at most a temporary file, which counts and is removed like an entry. Whatever goes wrong
with the disk, for example that it is full: the cache does without itself.
"""

import fcntl
import hashlib
import os
import random
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FOLDERS = 256
NAMED_BY = 12  # Bytes of a sha256 in an entry's name: among 10^10 entries, two share them with a probability of 10^-9.
BLOCK = 4096  # Files take whole blocks of a disk.
KEPT = 0.9  # The share of a folder's limit that is left when room is made, so that this is seldom needed.
SIZE = struct.Struct("<q")
_without: set[Path] = set()  # Folders into which this process writes no more.
_too_small: set[Path] = set()  # Folders of which this process has said so.


@dataclass(frozen=True)
class Cache:
    """A cache in `folder` that takes at most `limit` bytes of its disk."""

    folder: Path
    limit: int

    def get(self, sha256: bytes, mark: bytes = b"") -> bytes | None:
        """Return the bytes that have, after `mark`, this sha256; None if they are not there.

        Of the sha256 the first NAMED_BY bytes suffice. Damaged ones are removed.
        """
        path = self._path(sha256)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(mark + data).digest().startswith(sha256):
            return data
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return None

    def put(self, sha256: bytes, data: bytes) -> None:
        """Store bytes, if they fit and the disk takes them."""
        if self.folder in _without:
            return
        if _on_disk(len(data)) > self._most:
            self._say_too_small(len(data))
            return
        path = self._path(sha256)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            counter = os.open(path.parent / ".size", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(counter, fcntl.LOCK_EX)
                if not path.exists():
                    self._add(path, data, counter)
            finally:
                fcntl.flock(counter, fcntl.LOCK_UN)  # Closed alone, it stays locked in a process forked meanwhile.
                os.close(counter)
        except FileNotFoundError:  # Somebody deletes the cache at this moment.
            return
        except OSError as error:
            _without.add(self.folder)
            print(
                f"The cache {self.folder} takes nothing more ({error.strerror}): this process goes on without it. Free "
                "some of its disk, or set runs_on.cache to another folder.",
                file=sys.stderr,
            )

    def _say_too_small(self, size: int) -> None:
        if self.folder not in _too_small:
            _too_small.add(self.folder)
            least = (_on_disk(size) + BLOCK) * FOLDERS / 2**30
            print(
                f"The cache {self.folder} does not take what has {size} bytes: a folder has 1/{FOLDERS} of its limit. "
                f"Set runs_on.cache_gb to {least:.2f} or more.",
                file=sys.stderr,
            )

    def taken(self) -> int:
        """Return how many bytes of its disk the entries take at most, without looking at each.

        Raises OSError if the folder cannot be read.
        """
        noted = [path.read_bytes() for path in self.folder.glob("*/.size")]
        return sum(SIZE.unpack(data)[0] for data in noted if len(data) == SIZE.size)

    @property
    def _most(self) -> int:
        """Return the bytes that the entries of a folder may take. The file with their size takes a block, too."""
        return self.limit // FOLDERS - BLOCK

    def _path(self, sha256: bytes) -> Path:
        name = sha256[:NAMED_BY].hex()
        return self.folder / name[:2] / name

    def _add(self, path: Path, data: bytes, counter: int) -> None:
        """Write an entry. `counter`: descriptor of the file with the folder's size, which is locked."""
        size, most = _on_disk(len(data)), self._most
        noted = os.pread(counter, SIZE.size, 0)
        used = SIZE.unpack(noted)[0] if len(noted) == SIZE.size else most
        if used + size > most:
            used = _make_room(path.parent, int(KEPT * most) - size)
        os.pwrite(counter, SIZE.pack(used + size), 0)  # Before the file: after a kill it is too large, and corrected.
        temporary = path.with_name(f".{path.name}")
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def _on_disk(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _make_room(folder: Path, most: int) -> int:
    """Remove entries, chosen at random, until the others take at most `most` bytes. Return how many they take."""
    sizes = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name != ".size":
                with suppress(FileNotFoundError):  # It was damaged, and its reader has removed it.
                    sizes[entry.path] = _on_disk(entry.stat().st_size)
    used = sum(sizes.values())
    for path in random.sample([*sizes], len(sizes)):
        if used <= most:
            break
        Path(path).unlink(missing_ok=True)
        used -= sizes[path]
    return used
