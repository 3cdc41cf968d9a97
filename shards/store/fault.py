"""Named fault points around every step of a commit, at which tests of resumption kill a process.

In a normal run nothing is armed, and passing a point costs one comparison with None. The environment variable
`XDC_FAULT` is read once, when this module is imported:

    kill:3:before rename 000001.tar     at the third passing of this point, SIGKILL to this process
    stop:1:before commit                the same with SIGSTOP: another process can work while this one is stopped
    stop:2:before receipt *             a pattern, as of file names: at the second receipt, whichever it is
    trace:/tmp/points                   append the name of every point that is passed to this file
"""

import os
import signal
from fnmatch import fnmatchcase

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}

_left = 0
_armed: tuple[str, str] | None = None


def arm(order: str | None) -> None:
    """Arm a fault point as the text of `XDC_FAULT` says; None disarms. For tests that fork a process.

    Raises ValueError for any other text, because a harness that kills nothing must not pass.
    """
    global _armed, _left
    if not order:
        _armed = None
        return
    kind, _, rest = order.partition(":")
    count, _, point = rest.partition(":")
    if kind == "trace" and rest:
        _armed = (kind, rest)
    elif kind in SIGNALS and count.isdigit() and point:
        _armed, _left = (kind, point), int(count)
    else:
        raise ValueError(
            f"XDC_FAULT is {order!r}; it is for xdc's own tests: kill:COUNT:POINT, stop:COUNT:POINT or trace:FILE. "
            "Unset it."
        )


def fault_point(when: str, step: str = "") -> None:
    """Pass the point `when step` ("before rename", "000001.tar"). This does nothing unless a test has armed it."""
    if _armed is not None:
        _pass(f"{when} {step}".strip())


def _pass(point: str) -> None:
    global _armed, _left
    assert _armed is not None
    kind, wanted = _armed
    if kind == "trace":
        with open(wanted, "a", encoding="utf-8") as file:
            file.write(point + "\n")
    elif fnmatchcase(point, wanted):
        _left -= 1
        if _left <= 0:
            _armed = None
            os.kill(os.getpid(), SIGNALS[kind])


arm(os.environ.get("XDC_FAULT"))
