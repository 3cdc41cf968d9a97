"""A module that ends child processes that import it, before they have taken a job: as many as a file has bytes."""

import multiprocessing
import os
from pathlib import Path

LEFT = "XDC_TEST_DEAD_ON_ARRIVAL"  # The file: each process that ends shortens it by a byte.

if multiprocessing.current_process().name != "MainProcess":
    left = Path(os.environ[LEFT])
    if size := left.stat().st_size:
        os.truncate(left, size - 1)
        os._exit(1)


def work(number: int) -> int:
    """Give back the number."""
    return number


def import_missing(number: int) -> int:
    """Import a module that is gone, as after a change of the installation."""
    from tests.shards import sandbox_no_longer_there  # type: ignore[attr-defined]

    return number + len(sandbox_no_longer_there.__name__)
