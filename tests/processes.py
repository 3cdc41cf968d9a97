"""Watching the processes that a test started."""

import time
from collections.abc import Callable
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def children_of(pid: int) -> list[int]:
    """The living children of a process, whichever of its threads started them."""
    listed = (task / "children" for task in Path(f"/proc/{pid}/task").iterdir())
    return [int(child) for file in listed for child in file.read_text().split() if alive(int(child))]


def wait_for(what: str, happened: Callable[[], object], seconds: float = 60, every: float = 0.01) -> None:
    """Return as soon as `happened()`, which is asked `every` so many seconds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(every)
