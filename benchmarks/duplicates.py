"""Near-duplicates of synthetic features at two sizes: seconds, time per clip as a ratio, memory, and what is found.

    PYTHONPATH=. python benchmarks/duplicates.py [--clips 20000 100000] [--width 512] [--threads 2]

Clips are drawn around places, 200 clips for each; a hundredth are copies with a little noise. Nothing else is measured:
not the reading of Parquet files.
"""

import argparse
import resource
import tempfile
import time

import numpy as np
import pyarrow as pa

from xdc_core.clustering.preprocess import unit_length
from xdc_core.curation.duplicates import Duplicates, find_duplicates
from xdc_core.curation.neighbours import cluster_starts
from xdc_core.curation.points import Points

COPIES, NOISE, BATCH = 0.01, 0.03, 10_000


def draw(clips: int, width: int, file: object) -> Points:
    """Clips, the last hundredth of which are copies of the first ones; in a file, as in the command."""
    dice = np.random.default_rng(0)
    copied = int(clips * COPIES)
    vectors = np.memmap(file, np.float32, "w+", shape=(clips, width))  # type: ignore[call-overload]
    places = dice.normal(size=(max(1, clips // 200), width)).astype(np.float32)
    for start in range(0, clips - copied, BATCH):
        own = places[dice.integers(len(places), size=min(BATCH, clips - copied - start))]
        vectors[start : start + len(own)] = unit_length(own + dice.normal(size=own.shape).astype(np.float32))
    noise = dice.normal(size=(copied, width)).astype(np.float32) * NOISE / width**0.5
    vectors[clips - copied :] = unit_length(vectors[:copied] + noise)
    return Points(np.array([f"{number:08d}" for number in range(clips)]), vectors)


def find(points: Points, threads: int) -> tuple[float, Duplicates]:
    """Seconds, and what was found."""
    count = len(points)
    numbers = [str(number) for number in range(count)]
    same = {"start_s": [0.0] * count, "duration_s": [1.0] * count, "split": [""] * count}
    clips = pa.table(
        {"key": points.keys.tolist(), "source": numbers, **same, "mp4_size": [1] * count, "flac_size": [1] * count}
    )
    start = time.perf_counter()
    found = find_duplicates(points, clips, cluster_starts(points, None, 0, threads), learn_splits=None)
    return time.perf_counter() - start, found


def main() -> None:
    """Print a row per size, and the ratio of the times per clip."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--clips", type=int, nargs=2, default=[20_000, 100_000])
    arguments.add_argument("--width", type=int, default=512)
    arguments.add_argument("--threads", type=int, default=2)
    given = arguments.parse_args()
    import faiss
    from threadpoolctl import threadpool_limits

    faiss.omp_set_num_threads(given.threads)
    threadpool_limits(given.threads)
    per_clip = []
    for clips in given.clips:
        with tempfile.TemporaryFile() as file:
            points = draw(clips, given.width, file)
            seconds, found = find(points, given.threads)
        copied = int(clips * COPIES)
        pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
        right = len(pairs & {(number, clips - copied + number) for number in range(copied)})
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        each = seconds / clips
        per_clip.append(each)
        print(f"{clips} clips x {given.width}: {seconds:.1f} s, {1e6 * each:.0f} us per clip; peak {peak:.0f} MiB")
        precision, recall = right / max(1, len(pairs)), right / copied
        print(f"  threshold {found.threshold}, precision {precision:.3f}, recall {recall:.3f}")
    print(f"time per clip, {given.clips[1]} against {given.clips[0]} clips: {per_clip[1] / per_clip[0]:.2f}")


if __name__ == "__main__":
    main()
