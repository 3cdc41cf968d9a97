"""The lock of a directory: only one process builds it at a time.

Two things decide who builds: `flock` on a lock file, and the contents of that file. On one machine the kernel's lock is
enough. On a disk that several machines share it may hold only within each machine (Lustre with `localflock`, BeeGFS,
NFS with `local_lock`). So the file is created exclusively, which is atomic everywhere; it names its holder; and the
holder renews its modification time. A holder on another machine counts as dead once its file has not changed for
`PATIENCE` seconds. The file is watched for changes, because clocks of two machines differ. A file that is more than
`ABANDONED` seconds older than one just created beside it, by the same clock, counts as dead without this wait.

A holder that is only paused for longer loses the lock without notice. Its files are not mixed with those of the next
holder: its partial directory has been renamed (`shards.store.commit.begin`), and it ends with an error.
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
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from shards.errors import Busy
from shards.store.fault import fault_point

RENEWAL = 5.0  # Seconds from one renewal of a held lock file to the next.
PATIENCE = 30.0  # Seconds without a renewal after which a holder on another machine counts as dead.
TURN = 10.0  # Seconds that a change of a small file waits for the changes of others.
ABANDONED = 100 * PATIENCE  # Seconds since the last renewal, by the disk's clock, after which a file counts as dead.
MOMENT = 1.0  # Seconds for a process of this machine to write its name into its file, or to finish dying.
WITHOUT_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)

# Every process that inherited the file holds the lock: a decoding worker must not keep it when its parent is killed.
_locks: set[TextIO] = set()
_inherited: list[TextIO] = []  # Never collected: that would close a file number that may belong to another file.


def _let_go() -> None:
    for file in _locks:
        os.close(file.fileno())
        _inherited.append(file)
    _locks.clear()


os.register_at_fork(after_in_child=_let_go)


@dataclass(frozen=True)
class Holder:
    """The process that made a lock file.

    host: the machine's name. started: when the process took the lock, ISO 8601, UTC. machine: distinguishes machines
    with one name, and a machine before and after a restart. born: distinguishes processes with the same pid.
    """

    host: str
    pid: int
    started: str
    machine: str
    born: str

    def __str__(self) -> str:
        return f"(pid {self.pid}), on host {self.host}, since {self.started}"


def this_machine() -> str:
    """Return a text that is unique to this container or machine: Linux's boot id and its pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # Not Linux.
        return platform.node()


def _this_process() -> Holder:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(platform.node(), os.getpid(), started, this_machine(), _born(os.getpid()))


def _born(pid: int) -> str:
    """Return the start of a process in clock ticks since boot; "" if the process or /proc does not exist."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]  # A dead process that was not yet waited for has no lock any more.


def _runs(holder: Holder) -> bool:
    """Return whether a holder on this machine is alive."""
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
    """Return the file that is locked while `target` is built. If it exists unlocked, its process was killed."""
    return target.with_name(f".{target.name}.lock")


def read_holder(lock: Path) -> Holder | None:
    """Return the holder of a lock file; None if it does not exist or is empty (made by xdc 0.1.0, or just now)."""
    try:
        return _parsed(lock.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None


def _parsed(text: str) -> Holder | None:
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Builder:
    """Who builds a directory now. holder: None if the lock file does not name it. certain: whether it is alive."""

    holder: Holder | None
    certain: bool


def builder_of(target: Path) -> Builder | None:
    """Return who builds `target` now, as far as this machine can tell without waiting; None for nobody.

    A lock file of another machine counts as held until it is older than `ABANDONED`, because only watching it shows
    whether its holder is alive.
    """
    lock = lock_of(target)
    try:
        with lock.open(encoding="utf-8", errors="replace") as file:
            holder = _parsed(file.read())
            if free := _flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB):
                fcntl.flock(file, fcntl.LOCK_UN)  # At once: a builder that comes now must not find it held.
            strange = holder is not None and holder.machine != this_machine() and not _abandoned(file, lock)
    except OSError:
        return None
    if holder is None:
        return None if free else Builder(None, certain=True)
    if not free or (holder.machine == this_machine() and _runs(holder)):
        return Builder(holder, certain=True)
    return Builder(holder, certain=False) if strange else None


def in_progress(target: Path) -> str:
    """Return who builds `target` now, in words; "" for nobody. See `builder_of`."""
    builder = builder_of(target)
    if builder is None:
        return ""
    if builder.holder is None:
        return "another process"
    doubt = "" if builder.certain else " which may be dead and cannot be checked from this machine,"
    return f"a process {builder.holder},{doubt}"


@contextmanager
def exclusive(target: Path, patience: float | None = None) -> Iterator[None]:
    """Hold the lock of `target`, so that only one process builds it. The kernel frees the lock of a killed process.

    `patience`: seconds for which a lock file of another machine is watched before its holder counts as dead; 0: the
    holder counts as alive at once. A file older than `ABANDONED` is not watched.

    Raises:
        Busy: another living process holds it; the text names the host, the process and the time since when.
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
        if _is_at(file, lock):  # Else another process has taken it over: see the top of this file.
            lock.unlink(missing_ok=True)
        fault_point("after unlock", target.name)
        file.close()


@contextmanager
def in_turn(file: Path) -> Iterator[None]:
    """Hold the lock of a small file that is read, changed and written. Waits for other processes that change it.

    Raises:
        Busy: another process has held it for `TURN` seconds.
    """
    until = time.monotonic() + TURN
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(exclusive(file))
                break
            except Busy:
                if time.monotonic() > until:
                    raise
            time.sleep(0.02)
        yield


def _renew(file: TextIO, released: threading.Event) -> None:
    while not released.wait(RENEWAL):
        try:
            os.utime(file.fileno())
        except OSError:  # Taken over, or the disk is not available: the next write reports it.
            continue


def _acquired(target: Path, patience: float) -> TextIO:
    """Return the lock file of `target`, locked and with this process as its holder. Raises Busy."""
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
            current, now = (text, state.st_ino), time.monotonic()
            here = holder is not None and holder.machine == this_machine() and _runs(holder)
            strange = holder is not None and holder.machine != this_machine() and not _abandoned(file, lock)
            if strange and (not patience or (seen is not None and (current, state.st_mtime_ns) != (seen, renewed))):
                raise _busy(target, holder)  # It was renewed, or is new: its holder is alive.
            if current != seen:
                seen, since = current, now
            renewed = state.st_mtime_ns
            if here and now - since >= MOMENT:  # The kernel's lock does not work here.
                raise _busy(target, holder)
            wait = patience if strange else MOMENT if not text else 0
            if not here and now - since >= wait:
                # Removed and created again, not overwritten: of two processes that do this only one creates the next.
                if _is_at(file, lock):
                    lock.unlink(missing_ok=True)
                continue
        time.sleep(min(0.5, patience / 10) if strange else 0.02)


def _abandoned(file: TextIO, lock: Path) -> bool:
    """Return whether a lock file is so old that its holder is dead. Both times are by the disk's clock."""
    try:
        with tempfile.NamedTemporaryFile(dir=lock.parent, prefix=".xdc-lock-", suffix=".tmp") as now:
            age = os.fstat(now.fileno()).st_mtime - os.fstat(file.fileno()).st_mtime
    except OSError:  # Nothing can be written there.
        return False
    return age > ABANDONED


def _created(lock: Path) -> TextIO | None:
    """Create a lock file of this process and return it; None if one exists."""
    try:
        file = os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), "r+", encoding="utf-8")
    except FileExistsError:
        return None
    try:
        _flock(file, fcntl.LOCK_EX)  # A process that opened it before reads it and closes it.
        text = json.dumps(asdict(_this_process())).encode()
        if os.write(file.fileno(), text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(lock))
    except OSError:  # As on a full disk: an empty lock file would block every process.
        lock.unlink(missing_ok=True)
        file.close()
        raise
    if _is_at(file, lock):
        return file
    file.close()  # This took so long that another process considered it dead.
    return None


def _flock(file: TextIO, how: int) -> bool:
    """Take the lock and return whether this succeeded. It does on file systems without locks: the content decides."""
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
