"""Telling Prefect or a tracker of something must not undo the work that it is about."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.logging import get_logger


@contextmanager
def only_reported(what: str) -> Iterator[None]:
    """Whatever goes wrong in showing `what` is a warning in the log."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a server that is down, locked or restarting raises all kinds
        get_logger("xdc").warning("%s could not be shown: %s", what, error)
