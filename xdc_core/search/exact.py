"""Exact search: every vector is compared, a part of them at a time."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

# Vectors that are compared at once: 65,536 of 512 numbers are 128 MB.
PART = 1 << 16


class Nearest(NamedTuple):
    """The nearest vectors of each query, nearest first. rows: int64 [queries, k], -1 where there are fewer than k.
    similarities: cosines, float32 [queries, k].
    """

    rows: np.ndarray
    similarities: np.ndarray


def parts_of(vectors: np.ndarray, size: int = PART) -> Iterator[np.ndarray]:
    """Yield vectors [n, components], which may be mapped from the disk, in parts."""
    for first in range(0, len(vectors), size):
        yield vectors[first : first + size]


def nearest(parts: Iterable[np.ndarray], queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Nearest:
    """Return the k vectors with the largest inner product with each query, by faiss.

    parts: float32 [n, components] each, one after the other; rows are numbered over all of them. queries: float32
    [queries, components]. allowed: which rows may be found, bool [rows of all parts]; None: all. Memory holds one part
    and the results.
    """
    import faiss

    queries = np.ascontiguousarray(queries, np.float32)
    threads = faiss.omp_get_max_threads()
    # faiss divides queries among threads. Of fewer queries than threads each thread gets a slice of the vectors.
    slices = threads if len(queries) < threads else 1

    def of_slice(part: np.ndarray, own: slice) -> tuple[slice, np.ndarray, np.ndarray]:
        count = min(k, own.stop - own.start)
        return own, *faiss.knn(queries, part[own], count, faiss.METRIC_INNER_PRODUCT)

    def of_part(part: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        bounds = np.linspace(0, len(part), slices + 1).astype(int).tolist()
        parted = [slice(*ends) for ends in pairwise(bounds) if ends[0] < ends[1]]
        return pool.map(partial(of_slice, part), parted)

    found = Nearest(np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, np.float32))
    first = 0
    with ThreadPoolExecutor(slices) as pool:
        for part in parts:
            rows = np.arange(first, first + len(part))
            first += len(part)
            if allowed is not None:
                kept = allowed[rows]
                rows, part = rows[kept], part[kept]
            if not len(rows):
                continue
            for own, similarities, places in of_part(np.ascontiguousarray(part, np.float32)):
                found = _merged(found, Nearest(rows[own][places], similarities), k)
    return found


def _merged(one: Nearest, other: Nearest, k: int) -> Nearest:
    rows = np.concatenate([one.rows, other.rows], axis=1)
    similarities = np.concatenate([one.similarities, other.similarities], axis=1)
    # Equally near ones stay in the order of their rows.
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return Nearest(np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarities, order, axis=1))


def without(found: Nearest, own: np.ndarray, k: int) -> Nearest:
    """Return the k nearest without each query's own row, int64 [queries]; -1 for a query that is no row.

    found: at least k + 1 per query, if there are so many.
    """
    kept = found.rows != np.where(own < 0, -2, own)[:, None]
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    rows, similarities = (np.take_along_axis(each, order, axis=1) for each in found)
    left = np.take_along_axis(kept, order, axis=1)
    return Nearest(np.where(left, rows, -1), np.where(left, similarities, -np.inf).astype(np.float32))
