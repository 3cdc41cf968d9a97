"""How many CPU threads a stage takes. Readable without torch and faiss."""

from shards.media.cores import core_count
from xdc_core.config.schema import Config


def thread_count(config: Config, sharers: int = 2) -> int:
    """CPU threads for one stage when `sharers` stages share the machine."""
    if config.runs_on.threads:
        return config.runs_on.threads
    return max(1, core_count() // (sharers if config.runs_on.parallel else 1))


def limit_faiss(config: Config) -> int:
    """Have faiss, and the BLAS inside it, take this many threads in this process; returns their number."""
    import faiss

    threads = thread_count(config)
    faiss.omp_set_num_threads(threads)
    return threads
