"""The level of log messages of a command, its processes, and Prefect."""

import os

from shards.log_level import VARIABLE, follow_log_level


def set_log_level(level: str) -> None:
    """Write log messages from this level on to stderr: of this process, its children, and Prefect.

    Call it before Prefect is imported.
    """
    os.environ[VARIABLE] = level
    # The first is of Prefect's own loggers, the second of all others once Prefect has set up logging.
    for name in ("PREFECT_LOGGING_LEVEL", "PREFECT_LOGGING_ROOT_LEVEL", "PREFECT_SERVER_LOGGING_LEVEL"):
        os.environ[name] = level.upper()
    follow_log_level()
