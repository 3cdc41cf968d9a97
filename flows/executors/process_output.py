"""How a process ended, and its output, for messages."""

import os
import re

MOST_BYTES, MOST_CHARACTERS = 65536, 400
_EXCEPTION = re.compile(r"(\w+\.)*\w*(Error|Exception)\b.*")


def how_ended(code: int) -> str:
    """Return an exit code in words; a negative one is a signal."""
    if code >= 0:
        return f"ended with exit code {code}"
    why = " (by a user, or by the system because memory ran out)" if code == -9 else ""
    return f"was ended by signal {-code}{why}"


def last_error(text: str) -> str:
    """Return the last line that names an exception, else the last line that is not empty, else ""."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if _EXCEPTION.fullmatch(line)]
    return (named or lines or [""])[-1][:MOST_CHARACTERS]


def last_line(text: str) -> str:
    """Return the last line that is not empty; "" if there is none."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:MOST_CHARACTERS]


def written(descriptor: int, start: int = 0) -> str:
    """Read a file from byte `start` on, at most its last 64 KiB. The file's position does not change."""
    end = os.fstat(descriptor).st_size
    first = max(start, end - MOST_BYTES)
    return os.pread(descriptor, max(end - first, 0), first).decode("utf-8", "replace")
