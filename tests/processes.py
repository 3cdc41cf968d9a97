"""Watching the processes that a test started."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def children_of(pid: int) -> list[int]:
    """The living children of a process, whichever of its threads started them; none if it has ended."""
    children: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # A thread that has ended meanwhile.
                children += map(int, (task / "children").read_text().split())
    return [child for child in children if alive(child)]


def wait_for(what: str, happened: Callable[[], object], seconds: float = 60, every: float = 0.01) -> None:
    """Return as soon as `happened()`, which is asked `every` so many seconds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(every)
