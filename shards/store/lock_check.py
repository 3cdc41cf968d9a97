"""A check whether file locks hold in a directory, between processes and, as far as is known, between machines."""

import fcntl
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/mounts")
TIMEOUT_S = 60.0  # For the second process, which takes less than one second if locks work.

# File systems of one machine, and those whose `flock` holds on all machines that have them mounted.
LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay", "vfat", "exfat", "ntfs3"})
ACROSS = frozenset({"gpfs", "ceph", "gfs2", "ocfs2"})

TRY = """
import fcntl, sys
try:
    fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("refused")
else:
    print("granted")
"""


@dataclass(frozen=True)
class LockCheck:
    """The result for one directory.

    here: whether a lock of one process excludes another one on this machine. sure: whether it also holds between
    machines, or no other machine shares the directory, according to the file system's type and options.
    """

    file_system: str
    here: bool
    sure: bool
    text: str


def check_locks(directory: Path) -> LockCheck:
    """Lock a file in `directory`, have a second process try the same, and look up the file system.

    One machine cannot prove that a lock holds on another one: `sure` follows from the file system's type and options.

    Raises:
        OSError: no file can be created there.
        subprocess.TimeoutExpired: the second process has no answer within `TIMEOUT_S`, as when NFS's locks hang.
    """
    kind, options = file_system_of(directory)
    here, between = _refused(directory), _between_machines(kind, options)
    if not here:
        return LockCheck(kind, False, False, f"on {kind} a second process gets the same lock; {AT_ONCE}")
    if between:
        return LockCheck(kind, True, False, f"on {kind} locks hold on this machine; {between}; {AT_ONCE}")
    shared = "no other machine shares it" if kind in LOCAL else "and between machines, as far as its options tell"
    return LockCheck(kind, True, True, f"on {kind} locks hold between processes, {shared}")


AT_ONCE = "do not build one directory from two machines at once: a stage may end with an error (docs/reliability.md)"


def _between_machines(kind: str, options: frozenset[str]) -> str:
    """Return why locks may not hold between machines; "" if they do, or if there is only one machine."""
    if kind in LOCAL or kind in ACROSS:
        return ""
    if kind in ("nfs", "nfs4"):
        alone = sorted(options & {"nolock", "local_lock=all", "local_lock=flock"})
        return f"the option {alone[0]} makes them local to each machine" if alone else ""
    if kind == "lustre":
        if "localflock" in options:
            return "the option localflock makes them local to each machine"
        return "" if "flock" in options else "its option flock is not set, so they may not hold between machines"
    if kind == "beegfs":
        return "they are local to each machine unless its tuneUseGlobalFileLocks is true"
    return "whether they hold between machines that share it is not known for this type"


def _refused(directory: Path) -> bool:
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".xdc-lock-", suffix=".tmp") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # This file system has none.
            return False
        done = subprocess.run(
            [sys.executable, "-S", "-c", TRY, file.name], capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    return done.stdout.strip() == "refused"


def file_system_of(directory: Path) -> tuple[str, frozenset[str]]:
    """Return the type and mount options of a directory's file system; "unknown" if none is listed."""
    place = Path(os.path.realpath(directory))
    innermost: tuple[Path, str, frozenset[str]] | None = None
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, mounted, kind, options = line.split()[:4]
        point = Path(mounted.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        # The innermost mount; of two at the same place the later one hides the earlier one.
        if place.is_relative_to(point) and (innermost is None or point.is_relative_to(innermost[0])):
            innermost = point, kind, frozenset(options.split(","))
    return innermost[1:] if innermost is not None else ("unknown", frozenset())
