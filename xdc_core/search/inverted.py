"""Approximate search in an inverted file (IVF) of faiss, with its recall measured on the corpus's own clips."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import StageError
from shards.progress import Progress
from shards.store.files import new_file
from xdc_core.documents.search_index import Approximate, Tried
from xdc_core.search.exact import Nearest, nearest, without

FILE_NAME = "index.faiss"
AT = 10  # The recall is of so many nearest clips.
QUERIES = 256
PER_LIST = 64  # Vectors per list to which centroids are fitted; faiss wants 39 to 256.
LISTS_PER_ROOT = 4  # faiss advises 4 to 16 lists per square root of the vectors.

Parts = Callable[[], Iterable[np.ndarray]]


def build_inverted(
    folder: Path,
    parts: Parts,
    count: int,
    queries: np.ndarray,
    own: np.ndarray,
    wanted: float,
    seed: int,
    progress: Progress,
) -> Approximate:
    """Write index.faiss with `count` vectors, and return how many lists must be read for the recall `wanted`.

    parts: called for each of two passes; yields the vectors, float32 [n, components], of length 1 or 0. queries:
    float32 [queries, components]. own: int64 [queries], the row of each query's clip, which does not count, as in a
    search; -1 for none. The vectors are in memory once.
    """
    import faiss

    lists = max(1, min(int(LISTS_PER_ROOT * count**0.5), count // PER_LIST))
    chosen = np.sort(np.random.default_rng(seed).choice(count, min(count, lists * PER_LIST), replace=False))
    sample, first = list[np.ndarray](), 0
    for part in parts():
        sample.append(part[chosen[np.searchsorted(chosen, first) : np.searchsorted(chosen, first + len(part))] - first])
        first += len(part)
        progress(first, 2 * count, "vectors read")
    fitted = np.concatenate(sample)
    width = fitted.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.spherical, index.cp.min_points_per_centroid = seed, True, 1
    index.train(fitted)
    del fitted, sample

    def added() -> Iterable[np.ndarray]:
        for part in parts():
            index.add(np.ascontiguousarray(part, np.float32))
            progress(count + index.ntotal, 2 * count, "vectors added")
            yield part

    truth = without(nearest(added(), queries, min(AT + 1, count)), own, AT)
    tried = []
    probes = 1
    while True:
        index.nprobe = probes
        similarities, rows = index.search(queries, min(AT + 1, count))
        found = without(Nearest(rows, similarities), own, AT)
        tried.append(Tried(probes=probes, recall=round(_recall(found.rows, truth.rows), 4)))
        if tried[-1].recall >= wanted or probes == lists:
            break
        probes = min(2 * probes, lists)
    with new_file(folder / FILE_NAME) as temporary:
        faiss.write_index(index, str(temporary))
    return Approximate(lists=lists, probes=probes, recall=tried[-1].recall, queries=len(queries), tried=tried)


def _recall(found: np.ndarray, truth: np.ndarray) -> float:
    shares = [np.isin(right[right >= 0], own).mean() for own, right in zip(found, truth, strict=True) if right[0] >= 0]
    return float(np.mean(shares)) if shares else 1.0


def search_inverted(
    directory: Path, approximate: Approximate, queries: np.ndarray, k: int, allowed: np.ndarray | None
) -> Nearest:
    """Return the nearest vectors that an inverted file finds. It is mapped from the disk: only lists are read.

    Its sha256 is not checked. allowed: as `nearest`.

    Raises:
        StageError: the file is missing or damaged.
    """
    import faiss

    path = directory / FILE_NAME
    try:
        index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    except RuntimeError as error:
        raise StageError(f"{path} cannot be read as an index of faiss. Rebuild it: xdc stage search --force") from error
    selector = None
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))
    parameters = faiss.SearchParametersIVF()
    parameters.nprobe, parameters.sel = approximate.probes, selector
    similarities, rows = index.search(np.ascontiguousarray(queries, np.float32), k, params=parameters)
    return Nearest(rows, np.where(rows < 0, -np.inf, similarities).astype(np.float32))
