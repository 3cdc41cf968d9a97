"""SIGTERM as a request: the work ends when it has kept what is finished."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def sigterm_recorded() -> Iterator[Callable[[], bool]]:
    """Record SIGTERM instead of ending the process, while active. Yields a function that returns whether it came.

    Outside the main thread nothing is recorded, because Python handles signals in the main thread only.
    """
    received = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: received.set()) if main else None
    try:
        yield received.is_set
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
