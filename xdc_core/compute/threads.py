"""The number of CPU threads of a stage. Importable without torch and faiss."""

from shards.media.cores import core_count, granted_cores
from xdc_core.config.schema import RunsOn


def thread_count(runs_on: RunsOn, sharers: int = 2) -> int:
    """Return the number of CPU threads for one stage if `sharers` stages share the machine.

    A worker to which an executor has given cores uses them all.
    """
    if threads := runs_on.threads or granted_cores():
        return threads
    return max(1, core_count() // (sharers if runs_on.parallel else 1))


def limit_faiss(runs_on: RunsOn) -> int:
    """Limit faiss, and the BLAS inside it, to the configured number of threads in this process. Return the number."""
    import faiss

    threads = thread_count(runs_on)
    faiss.omp_set_num_threads(threads)
    return threads
