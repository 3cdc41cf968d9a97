"""Defaults for Prefect's settings where they are not set. Import this before Prefect: it sets them."""

import os

DEFAULTS = {
    # The temporary server takes 11 to 28 s to start on slow cores; Prefect's own limit is 20.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
# For the xdc command, which shows progress itself.
QUIET = {"PREFECT_LOGGING_LEVEL": "CRITICAL", "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL"}


def set_defaults(quiet: bool = False) -> None:
    """Set the environment variables that are not set yet. `quiet`: no logs on the terminal either."""
    for name, value in (DEFAULTS | (QUIET if quiet else {})).items():
        os.environ.setdefault(name, value)


set_defaults()
