"""One builder of a directory at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from shards.errors import Busy
from shards.fault import fault_point

# A lock belongs to every process that has inherited its file: a decoding worker must not hold it when we are killed.
_locks: set[TextIO] = set()
_inherited: list[TextIO] = []  # Never collected: that would close a number that is another file's by then.


def _let_go() -> None:
    for file in _locks:
        os.close(file.fileno())
        _inherited.append(file)
    _locks.clear()


os.register_at_fork(after_in_child=_let_go)


def lock_of(target: Path) -> Path:
    """The file that is locked while `target` is built. One that is there but not locked is a killed process's."""
    return target.with_name(f".{target.name}.lock")


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Only one process builds `target` at a time. The kernel frees the lock of a killed process.

    Raises:
        Busy: another living process holds it; the text names the process.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_of(target)
    while True:
        file = lock.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise Busy(
                f"{target} is being built by another process (pid {holder}). "
                "Wait until it has finished, or end it, and run this again."
            ) from None
        # The holder before us may have removed the file between our open and our lock.
        try:
            if os.path.sameopenfile(file.fileno(), (check := lock.open()).fileno()):
                check.close()
                break
            check.close()
        except FileNotFoundError:
            pass
        file.close()
    _locks.add(file)
    try:
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), str(os.getpid()).encode())
        yield
    finally:
        _locks.discard(file)
        fault_point("before unlock", target.name)
        lock.unlink(missing_ok=True)
        fault_point("after unlock", target.name)
        file.close()
