"""The memory of this process's descendants, by sampling /proc while a block runs."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

INTERVAL_S = 0.2
PROC = Path("/proc")


def descendants(root: int) -> list[int]:
    """Return the processes below a process, by their ids. Empty without /proc."""
    children: dict[int, list[int]] = {}
    for entry in PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):  # It has just ended.
            # The name, in parentheses, may contain spaces.
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found, left = [], [root]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def resident(pids: list[int]) -> int:
    """Return the bytes that processes occupy together. Pages that several share are divided among them."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError):
            for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += 1024 * int(line.split()[1])
    return total


class TreeMemory:
    """The largest memory so far of the processes below this one, in bytes; 0 where there is no /proc."""

    def __init__(self) -> None:
        self.peak = 0

    def look(self) -> None:
        """Look once."""
        self.peak = max(self.peak, resident(descendants(os.getpid())))


@contextlib.contextmanager
def tree_memory() -> Iterator[TreeMemory]:
    """Watch the memory of the processes below this one in a thread, every 0.2 s, while the block runs."""
    watched, ended = TreeMemory(), threading.Event()

    def watch() -> None:
        while not ended.wait(INTERVAL_S):
            watched.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        ended.set()
        thread.join()
        watched.look()  # A block can be shorter than the interval.
