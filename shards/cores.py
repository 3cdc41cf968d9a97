"""The number of processor cores that this process may use."""

import os

# Set by an executor in a worker's environment, where the system itself does not limit the worker to its cores.
GRANTED = "XDC_CORES"
# Threads for computing on these cores, if other stages compute on them at the same time.
THREADS = "XDC_THREADS"


def granted_cores() -> int | None:
    """Return the number of cores that an executor has given to this process alone; None if it has not."""
    return int(os.environ[GRANTED]) if os.environ.get(GRANTED) else None


def granted_threads() -> int | None:
    """Return the number of threads that an executor has given to this process, by default one per granted core; None
    if it has given neither.
    """
    return int(os.environ[THREADS]) if os.environ.get(THREADS) else granted_cores()


def core_count() -> int:
    """Return the number of processor cores that this process may use."""
    if (granted := granted_cores()) is not None:
        return granted
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
