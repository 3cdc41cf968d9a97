"""What is expensive to make is made once a session, also where several processes of pytest-xdist share the tests."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return the session's directory `name`. Whichever process asks first has `make` fill it, and others wait for that.

    `make` is given the directory, empty. Where it raises, nothing stays of it.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # Each worker has a folder of its own in the session's.
        base = base.parent
    directory, finished = base / "shared" / name, base / "shared" / f"{name}.finished"
    directory.parent.mkdir(exist_ok=True)
    with (base / "shared" / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            make(directory)
            finished.touch()
    return directory
