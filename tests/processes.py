"""Watching the processes that a test started."""

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

# Seconds after which a test gives up that waits for something. They pass on no machine but one that is very busy.
PATIENCE_S = 300.0


def state_of(pid: int) -> str:
    """The state of a process as in /proc: "T" if it is stopped, "Z" if nobody has waited for it; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    return state_of(pid) not in ("", "Z")


def command_of(pid: int) -> list[str]:
    """The words of a process; [""] if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return [""]


def children_of(pid: int) -> list[int]:
    """The living children of a process, whichever of its threads started them; none if it has ended."""
    children: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # A thread that has ended meanwhile.
                children += map(int, (task / "children").read_text().split())
    return [child for child in children if alive(child)]


def wait_for(
    what: str,
    happened: Callable[[], object],
    seconds: float = PATIENCE_S,
    every: float = 0.01,
    of: "subprocess.Popen[Any] | None" = None,
) -> None:
    """Return as soon as `happened()`, which is asked `every` so many seconds; fail after `seconds`.

    of: the process that makes it happen. If it has ended before, fail at once, with what it printed.
    """
    deadline = time.monotonic() + seconds
    while not happened():
        if of is not None and of.poll() is not None:
            assert happened(), f"the process ended with {of.returncode} before {what}: {of.communicate()}"
            return
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(every)
