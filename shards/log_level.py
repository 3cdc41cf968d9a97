"""The level of log messages, which processes inherit in an environment variable."""

import logging
import os
import sys

VARIABLE = "XDC_LOG_LEVEL"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def follow_log_level() -> None:
    """Write log messages of this process to stderr, from the level in XDC_LOG_LEVEL on. Without it change nothing.

    A name that is no level counts as info: a process of a stage does not fail for it.
    """
    if name := os.environ.get(VARIABLE):
        level = logging.getLevelNamesMapping().get(name.upper(), logging.INFO)
        logging.basicConfig(level=level, format=FORMAT, stream=sys.stderr)
