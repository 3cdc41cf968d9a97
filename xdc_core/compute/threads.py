"""The number of CPU threads of a stage. Importable without torch and faiss."""

from shards.media.cores import core_count
from xdc_core.config.schema import Config


def thread_count(config: Config, sharers: int = 2) -> int:
    """Return the number of CPU threads for one stage if `sharers` stages share the machine."""
    if config.runs_on.threads:
        return config.runs_on.threads
    return max(1, core_count() // (sharers if config.runs_on.parallel else 1))


def limit_faiss(config: Config) -> int:
    """Limit faiss, and the BLAS inside it, to the configured number of threads in this process. Return the number."""
    import faiss

    threads = thread_count(config)
    faiss.omp_set_num_threads(threads)
    return threads
