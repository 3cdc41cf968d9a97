"""One builder of a directory at a time.

Two things say who builds: `flock` on a lock file, and what stands in that file. On one machine the kernel's lock is
enough. On a disk that several machines share it may hold on each machine alone (Lustre with `localflock`, BeeGFS, NFS
with `local_lock`). So the file is created exclusively, which is atomic everywhere; it names its holder; and the holder
renews its modification time. A holder on another machine counts as dead once its file has not changed for `PATIENCE`
seconds. Whether it changes is observed, for clocks of two machines differ; or the file is compared with one that was
just made beside it, by the same clock: where it is older than `ABANDONED` seconds its holder is dead, without waiting.

A holder that is only paused for longer loses the lock and does not know it. What it writes then is not mixed with what
the next one writes: its partial directory has been renamed (`shards.store.commit.begin`), and it ends with an error.
"""

import errno
import fcntl
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from shards.errors import Busy
from shards.store.fault import fault_point

RENEWAL = 5.0  # Seconds from one renewal of a held lock file to the next.
PATIENCE = 30.0  # Seconds without a renewal after which a holder on another machine counts as dead.
ABANDONED = 100 * PATIENCE  # Seconds since the last renewal, on the disk's clock, after which nobody watches.
MOMENT = 1.0  # Seconds for a process of this machine to write its name into its file, or to finish dying.
WITHOUT_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)

# A lock belongs to every process that has inherited its file: a decoding worker must not hold it when we are killed.
_locks: set[TextIO] = set()
_inherited: list[TextIO] = []  # Never collected: that would close a number that is another file's by then.


def _let_go() -> None:
    for file in _locks:
        os.close(file.fileno())
        _inherited.append(file)
    _locks.clear()


os.register_at_fork(after_in_child=_let_go)


@dataclass(frozen=True)
class Holder:
    """What a lock file says of the process that made it.

    host: the machine's name. started: when the process took the lock, ISO 8601, UTC. machine: tells machines of one
    name apart, and a machine before and after a restart. born: tells processes apart that had the same pid.
    """

    host: str
    pid: int
    started: str
    machine: str
    born: str

    def __str__(self) -> str:
        return f"(pid {self.pid}), on host {self.host}, since {self.started}"


def this_machine() -> str:
    """A word that no other running system has, container or machine: Linux's boot id and the space of its pids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # Not Linux.
        return platform.node()


def _this_process() -> Holder:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(platform.node(), os.getpid(), started, this_machine(), _born(os.getpid()))


def _born(pid: int) -> str:
    """In clock ticks since the system's start; "" where a process is not there, or where there is no /proc."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]  # One that is dead and not yet waited for has no lock any more.


def _runs(holder: Holder) -> bool:
    """Whether a holder on this machine is still there."""
    if holder.born:
        return _born(holder.pid) == holder.born
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # Another user's.
        return True
    return True


def lock_of(target: Path) -> Path:
    """The file that is locked while `target` is built. One that is there but not locked is a killed process's."""
    return target.with_name(f".{target.name}.lock")


def read_holder(lock: Path) -> Holder | None:
    """Who made a lock file; None where it is not there, or names nobody (it was made by xdc 0.1.0, or this instant)."""
    try:
        return _parsed(lock.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None


def _parsed(text: str) -> Holder | None:
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None


def in_progress(target: Path) -> str:
    """Who builds `target` now, in words, as far as that can be seen from here without waiting; "" for nobody.

    A lock file of another machine counts as held until it is older than `ABANDONED`: whether its holder lives can only
    be told by watching it.
    """
    lock = lock_of(target)
    try:
        with lock.open(encoding="utf-8", errors="replace") as file:
            holder = _parsed(file.read())
            free = _flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            strange = holder is not None and holder.machine != this_machine() and not _abandoned(file, lock)
    except OSError:
        return ""
    if holder is None:
        return "" if free else "another process"
    if not free or (holder.machine == this_machine() and _runs(holder)):
        return f"a process {holder},"
    return f"a process {holder}, if that one lives, which cannot be told from this machine," if strange else ""


@contextmanager
def exclusive(target: Path, patience: float | None = None) -> Iterator[None]:
    """Only one process builds `target` at a time. The kernel frees the lock of a killed process.

    `patience`: for how many seconds a lock file that names a process of another machine is watched before that one
    counts as dead; 0: it counts as living, at once. One that is older than `ABANDONED` is not watched.

    Raises:
        Busy: another living process holds it; the text names host, process and since when.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_of(target)
    file = _acquired(target, PATIENCE if patience is None else patience)
    _locks.add(file)
    released = threading.Event()
    renewal = threading.Thread(target=_renew, args=(file, released), daemon=True, name=f"lock of {target.name}")
    try:
        renewal.start()
        yield
    finally:
        released.set()
        renewal.join()
        _locks.discard(file)
        fault_point("before unlock", target.name)
        if _is_at(file, lock):  # Else another one has taken it over: see the top of this file.
            lock.unlink(missing_ok=True)
        fault_point("after unlock", target.name)
        file.close()


def _renew(file: TextIO, released: threading.Event) -> None:
    while not released.wait(RENEWAL):
        try:
            os.utime(file.fileno())
        except OSError:  # Taken over, or a disk that is away for a while: told where something is written.
            continue


def _acquired(target: Path, patience: float) -> TextIO:
    """The lock file of `target`, locked and with this process's name in it. Raises Busy."""
    lock, seen, renewed, since = lock_of(target), None, 0, 0.0
    while True:
        if (file := _created(lock)) is not None:
            return file
        try:
            file = lock.open("r+", encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue
        with file:
            free = _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            text = file.read()
            holder = _parsed(text)
            if not free:
                raise _busy(target, holder)
            state = os.fstat(file.fileno())
            found, now = (text, state.st_ino), time.monotonic()
            here = holder is not None and holder.machine == this_machine() and _runs(holder)
            strange = holder is not None and holder.machine != this_machine() and not _abandoned(file, lock)
            if strange and (not patience or (seen is not None and (found, state.st_mtime_ns) != (seen, renewed))):
                raise _busy(target, holder)  # It was renewed, or is new: its holder lives.
            if found != seen:
                seen, since = found, now
            renewed = state.st_mtime_ns
            if here and now - since >= MOMENT:  # The kernel would have told us, where its locks work.
                raise _busy(target, holder)
            wait = patience if strange else MOMENT if not text else 0
            if not here and now - since >= wait:
                # Removed and made again, not written over: of two that find it abandoned only one makes the next.
                if _is_at(file, lock):
                    lock.unlink(missing_ok=True)
                continue
        time.sleep(min(0.5, patience / 10) if strange else 0.02)


def _abandoned(file: TextIO, lock: Path) -> bool:
    """Whether a lock file was renewed so long ago that its holder is dead. Both times are of the disk's clock."""
    try:
        with tempfile.NamedTemporaryFile(dir=lock.parent, prefix=".xdc-lock-", suffix=".tmp") as now:
            age = os.fstat(now.fileno()).st_mtime - os.fstat(file.fileno()).st_mtime
    except OSError:  # Nothing can be written there.
        return False
    return age > ABANDONED


def _created(lock: Path) -> TextIO | None:
    """A lock file of this process, which was not there; None where one is."""
    try:
        file = os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), "r+", encoding="utf-8")
    except FileExistsError:
        return None
    try:
        _flock(file, fcntl.LOCK_EX)  # Who has opened it before us looks into it, and closes it.
        text = json.dumps(asdict(_this_process())).encode()
        if os.write(file.fileno(), text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(lock))
    except OSError:  # As on a full disk: a lock that names nobody would be in everybody's way.
        lock.unlink(missing_ok=True)
        file.close()
        raise
    if _is_at(file, lock):
        return file
    file.close()  # We took so long that another one found it abandoned.
    return None


def _flock(file: TextIO, how: int) -> bool:
    """Whether the lock is ours. A file system without locks refuses nobody: the file's content decides."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_FLOCK:
            raise
    return True


def _is_at(file: TextIO, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), lock.stat())
    except FileNotFoundError:
        return False


def _busy(target: Path, holder: Holder | None) -> Busy:
    who = str(holder) if holder is not None else "(pid unknown)"
    return Busy(
        f"{target} is being built by another process {who}. Wait until it has finished, or end it, and run this again."
    )
