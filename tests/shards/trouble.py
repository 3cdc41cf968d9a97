"""Real trouble of the machine for the tests: missing permissions and a disk with a bad place."""

import contextlib
import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# From linux/capability.h, linux/prctl.h and linux/securebits.h.
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
PR_SET_SECUREBITS, SECBIT_NOROOT = 28, 1


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder in which everybody may write; those of pytest are the user's alone."""
    folder = Path(tempfile.mkdtemp(prefix="xdc-test-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def obeying_modes() -> Iterator[None]:
    """Root ignores modes: give up the right to, here and in all children that are started."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before, without = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    libc.capget(header, before)
    libc.capget(header, without)
    without[0] &= ~((1 << CAP_DAC_OVERRIDE) | (1 << CAP_DAC_READ_SEARCH))
    if libc.prctl(PR_SET_SECUREBITS, SECBIT_NOROOT, 0, 0, 0) or libc.capset(header, without):
        pytest.skip("root may not give up rights here")
    try:
        yield
    finally:
        libc.capset(header, before)
        libc.prctl(PR_SET_SECUREBITS, 0, 0, 0, 0)


class Disk:
    """A file system of its own, for reading, of which all behind its first `sound` bytes can be made unreadable."""

    def __init__(self, folder: Path, content: Path, size_mb: int) -> None:
        self.image, self.place, self.size = folder / "image", folder / "disk", size_mb << 20
        self.whole = folder / "whole"
        self.place.mkdir()
        tool = shutil.which("mke2fs", path=f"{os.environ['PATH']}:/sbin:/usr/sbin")
        if tool is None or os.geteuid():
            pytest.skip("only root can make and mount a disk, with mke2fs")
        subprocess.run([tool, "-q", "-t", "ext2", "-d", content, self.whole, f"{size_mb}M"], check=True)
        self.mount(self.size)

    def mount(self, sound: int) -> None:
        """Mount it anew; reading behind the first `sound` bytes fails with EIO."""
        self.umount()
        shutil.copy(self.whole, self.image)
        mounted = subprocess.run(["mount", "-o", "loop,ro", self.image, self.place], capture_output=True)
        if mounted.returncode:
            pytest.skip(f"no disk can be mounted: {mounted.stderr.decode().strip()}")
        os.truncate(self.image, sound)  # Only now: a file system that begins by saying more is not mounted.

    def umount(self) -> None:
        """Leave an empty folder behind."""
        while os.path.ismount(self.place):
            subprocess.run(["umount", "-l", self.place], check=True)
