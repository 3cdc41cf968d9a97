"""What fails in informing Prefect or a tracker must not undo the work that it is about."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.logging import get_logger


@contextmanager
def only_reported(what: str) -> Iterator[None]:
    """Turn every error of the block into a warning that `what` could not be shown."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a server that is down, locked or restarting raises all kinds
        get_logger("xdc").warning("%s could not be shown: %s", what, error)
