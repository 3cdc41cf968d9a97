"""How long an exact search takes beside faiss alone, and what an approximate one finds.

    PYTHONPATH=. python benchmarks/search.py [--clips 1000000] [--width 512] [--approximate 200000]

The vectors are a mixture of 1,000 normal distributions, of length 1. Both searches are of the same vectors and queries,
and take turns: faiss's IndexFlatIP, which has them in memory, and the search of stored vectors, which maps them from
the disk (they are in the page cache). The approximate index is made of the first of them; queries are other vectors.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from shards.progress import silent
from xdc_core.search.exact import PART, nearest, parts_of
from xdc_core.search.inverted import QUERIES, build_inverted, search_inverted

CENTRES, SPREAD = 1000, 2.0


def vectors(count: int, width: int, seed: int) -> Iterator[np.ndarray]:
    """Yield parts of `count` vectors of length 1, float32 [n, width], near one of the same centres."""
    centres = np.random.default_rng(0).normal(size=(CENTRES, width)).astype(np.float32)
    rng = np.random.default_rng(seed)
    for first in range(0, count, PART):
        size = min(PART, count - first)
        part = centres[rng.integers(CENTRES, size=size)]
        part += SPREAD * rng.standard_normal((size, width), np.float32)
        yield part / np.linalg.norm(part, axis=1, keepdims=True)


def store(path: Path, count: int, width: int) -> np.ndarray:
    """Write vectors, and return them mapped from the disk."""
    stored = np.lib.format.open_memmap(path, "w+", np.float32, (count, width))
    first = 0
    for part in vectors(count, width, 1):
        stored[first : first + len(part)] = part
        first += len(part)
    stored.flush()
    return np.load(path, mmap_mode="r")


def exact(stored: np.ndarray, turns: int, k: int) -> None:
    """Print seconds per search, and their ratio, for several numbers of queries."""
    import faiss

    index = faiss.IndexFlatIP(stored.shape[1])
    for part in parts_of(stored):
        index.add(np.ascontiguousarray(part))
    (queries,) = vectors(QUERIES, stored.shape[1], 2)
    for count in (1, 16, 64):
        taken: dict[str, list[float]] = {"faiss": [], "search": []}
        for turn in range(turns + 1):
            begun = time.perf_counter()
            rows = index.search(queries[:count], k)[1]
            between = time.perf_counter()
            found = nearest(parts_of(stored), queries[:count], k)
            if turn:  # The first one fills the page cache.
                taken["faiss"].append(between - begun)
                taken["search"].append(time.perf_counter() - between)
        same = float((found.rows == rows).mean())
        plain, own = (statistics.median(each) for each in taken.values())
        ratio = statistics.median(b / a for a, b in zip(*taken.values(), strict=True))
        print(f"{len(stored)} x {stored.shape[1]}, {count} queries: faiss {plain:.3f} s, search {own:.3f} s, ", end="")
        print(f"ratio {ratio:.3f}; {100 * same:.2f} % of the rows are the same", flush=True)


def approximate(stored: np.ndarray, folder: Path, k: int) -> None:
    """Print the recall of an approximate index with each number of lists read, and seconds per query."""
    (queries,) = vectors(QUERIES, stored.shape[1], 2)
    begun = time.perf_counter()
    no_clips = np.full(len(queries), -1)
    made = build_inverted(folder, lambda: parts_of(stored), len(stored), queries, no_clips, 0.99, 0, silent)
    took = time.perf_counter() - begun
    print(f"{len(stored)} x {stored.shape[1]}: {made.lists} lists, built in {took:.0f} s", flush=True)
    for tried in made.tried:
        again = made.model_copy(update={"probes": tried.probes})
        begun = time.perf_counter()
        for number in range(20):
            search_inverted(folder, again, queries[number : number + 1], k, None)
        each = (time.perf_counter() - begun) / 20
        print(f"  {tried.probes} lists: recall at 10 {tried.recall:.3f}, {1000 * each:.1f} ms per query", flush=True)


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--approximate", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where 2 GB fit  [default: the temporary folder]")
    given = parser.parse_args()
    with TemporaryDirectory(dir=given.folder) as name:
        stored = store(Path(name) / "vectors.npy", given.clips, given.width)
        exact(stored, given.turns, 10)
        if given.approximate:
            approximate(stored[: given.approximate], Path(name), 10)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


if __name__ == "__main__":
    main()
