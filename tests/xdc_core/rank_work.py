"""Work of ranks that fail, each in its own way. They note in the folder `arguments[0]` that they have started."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def _note_start(folder: str) -> None:
    (Path(folder) / f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}-rank-{os.environ['RANK']}").touch()


def _wait_for_the_end() -> None:
    while True:
        time.sleep(1)


def killed(document: Mapping[str, object], arguments: list[str], send: Callable[[object], None]) -> None:
    """Rank 1 is killed, as by the kernel if the memory is full; the other one then loses its connection."""
    _note_start(arguments[0])
    if os.environ["RANK"] == "1":
        print("rank 1 reads its clips", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    while not Path(arguments[0], f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}-rank-1").exists():
        time.sleep(0.01)
    raise RuntimeError("Connection closed by peer")


def defective(document: Mapping[str, object], arguments: list[str], send: Callable[[object], None]) -> None:
    """Rank 1 raises what it would raise again."""
    _note_start(arguments[0])
    if os.environ["RANK"] == "1":
        raise KeyError("no such head")
    _wait_for_the_end()


def disconnected(document: Mapping[str, object], arguments: list[str], send: Callable[[object], None]) -> None:
    """Rank 1 raises what gloo raises if another rank has gone."""
    _note_start(arguments[0])
    if os.environ["RANK"] == "1":
        raise RuntimeError("Connection closed by peer")
    _wait_for_the_end()
