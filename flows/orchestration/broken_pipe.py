"""A flow goes on when its output is read no more.

A worker reads the output of the flow runs that it has started. When it dies, Prefect's console handler finds a broken
pipe, and rich, with which it prints, then ends the process: the flow run would crash with its worker.
"""

import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def outlive_reader() -> None:
    """Make Prefect's console handlers silent after a broken pipe. Call it in the process of a flow."""
    from prefect.logging.handlers import PrefectConsoleHandler

    loggers = [logging.getLogger(), *map(logging.getLogger, tuple(logging.root.manager.loggerDict))]
    for handler in (handler for logger in loggers for handler in logger.handlers):
        if isinstance(handler, PrefectConsoleHandler):
            handler.console.on_broken_pipe = partial(_fall_silent, handler.console)  # type: ignore[method-assign]


def _fall_silent(console: "Console") -> None:
    """Do what rich does by default, but without ending the process."""
    console.quiet = True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
