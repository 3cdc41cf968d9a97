"""A module that ends every child process that imports it, before the child has taken a job."""

import multiprocessing
import os

if multiprocessing.current_process().name != "MainProcess":
    os._exit(3)


def work(number: int) -> int:
    """Never called."""
    return number
