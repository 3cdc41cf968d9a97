"""How many CPU threads a stage takes. Readable without torch and faiss."""

from shards.media.cores import core_count
from xdc_core.config.schema import RunsOn


def thread_count(runs_on: RunsOn, sharers: int = 2) -> int:
    """CPU threads for one stage when `sharers` stages share the machine."""
    if runs_on.threads:
        return runs_on.threads
    return max(1, core_count() // (sharers if runs_on.parallel else 1))


def limit_faiss(runs_on: RunsOn) -> int:
    """Have faiss, and the BLAS inside it, take this many threads in this process; returns their number."""
    import faiss

    threads = thread_count(runs_on)
    faiss.omp_set_num_threads(threads)
    return threads
