"""Set defaults of Prefect's settings. Import this module before Prefect."""

import os

DEFAULTS = {
    # The temporary server takes 11 to 28 s to start on slow cores; Prefect's own limit is 20.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
# For the xdc command, which shows progress itself: messages go to the server, not to the terminal.
QUIET = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL"}


def set_defaults(quiet: bool = False) -> None:
    """Set the environment variables that are not set yet.

    quiet: no logs on the terminal either, unless a level is set.
    """
    quiet = quiet and "PREFECT_LOGGING_LEVEL" not in os.environ
    for name, value in (DEFAULTS | (QUIET if quiet else {})).items():
        os.environ.setdefault(name, value)


set_defaults()
