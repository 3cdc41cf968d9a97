"""The number of CPU threads of a stage. Importable without torch and faiss."""

from shards.cores import core_count, granted_threads
from xdc_core.config.schema import RunsOn


def thread_count(runs_on: RunsOn, sharers: int = 2) -> int:
    """Return the number of CPU threads for one stage if `sharers` stages share the machine.

    `runs_on.threads` is that of each worker of a stage. Without it a worker has the threads that its executor has given
    it: as many as it has cores, or of the stage's own number its part.
    """
    if threads := runs_on.threads or granted_threads():
        return threads
    return max(1, core_count() // (sharers if runs_on.parallel else 1))


def limit_faiss(runs_on: RunsOn) -> int:
    """Limit faiss, and the BLAS inside it, to the configured number of threads in this process. Return the number."""
    import faiss

    threads = thread_count(runs_on)
    faiss.omp_set_num_threads(threads)
    return threads
