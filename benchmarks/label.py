"""Nearest centroids of the label stage against faiss's search alone, and its memory as rows grow.

    PYTHONPATH=. python benchmarks/label.py [--rows 1000000] [--width 512] [--k 256] [--part 20000]

Rows are drawn part by part, as shards are read: never more than one part is in memory.
"""

import os
import resource
import statistics

import faiss
import numpy as np
from side_by_side import contest, parser, record, show

from xdc_core.clustering.assign import nearest


def main() -> None:
    """Print the table, the peak memory after one and after all parts, and the time for 65 million rows at this rate."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--width", type=int, default=512)
    arguments.add_argument("--k", type=int, default=256)
    arguments.add_argument("--part", type=int, default=20_000)
    given = arguments.parse_args()
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(given.k, given.width)).astype(np.float32)
    part = rng.normal(size=(given.part, given.width)).astype(np.float32)
    index = faiss.IndexFlatL2(given.width)
    index.add(centroids)
    contestants = {"xdc": lambda: nearest(part, centroids), "faiss search": lambda: index.search(part, 1)}
    found = contest(f"nearest of {given.k} centroids, {given.width}-d", "rows", given.part, contestants, given.turns)
    show(found, "xdc")
    peaks = []
    for done in range(0, given.rows, given.part):
        nearest(rng.standard_normal((given.part, given.width), np.float32), centroids)
        if done in (0, (given.rows - 1) // given.part * given.part):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    rate = statistics.median(found.rates("xdc"))
    print(f"  peak memory after {given.part:,} rows {peaks[0]:.0f} MB, after {given.rows:,} rows {peaks[-1]:.0f} MB")
    print(f"  65 million rows at this rate: {65e6 / rate / 3600:.2f} h")
    record(given.out, contests=[found], peak_mb=peaks, rows=given.rows)


if __name__ == "__main__":
    main()
