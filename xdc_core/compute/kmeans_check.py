"""Whether faiss's k-means works on the GPUs here. As a program it tries k-means, and prints JSON:

    python -m xdc_core.compute.kmeans_check PARENT [cpu]

PARENT is the process id of the one that starts it, and ends it.

In a process of its own, because what goes wrong with CUDA inside faiss (too old a driver, a GPU for which it has no
code) does not raise an error: it ends the process.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xdc_core.compute.parent_death import die_with_parent

CPU = "cpu"  # As argument: without the GPUs.
TIMEOUT_S = 120.0
TOLERANCE = 0.01  # Between the objectives: both start from the same centroids and differ by rounding.
ROOT = Path(__file__).resolve().parents[2]
DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")  # NVIDIA's driver for Linux lists the machine's GPUs here.


@dataclass(frozen=True)
class KmeansCheck:
    """What was found: the sum of squared distances at the end on the CPU, and on the GPUs (None: there are none)."""

    version: str
    gpus: int
    cpu: float
    gpu: float | None


class FaissGpus(NamedTuple):
    """On how many GPUs faiss's k-means works; if on none, why not ("": there is none); faiss's version, if it ran."""

    gpus: int
    why: str
    version: str


def check_kmeans(gpu: bool) -> KmeansCheck:
    """Cluster the same points on the CPU and, if asked to and if faiss sees GPUs, on these.

    Ends the process where CUDA fails.
    """
    import faiss

    points = np.random.default_rng(0).normal(size=(4096, 32)).astype(np.float32)

    def objective(on_gpus: bool) -> float:
        means = faiss.Kmeans(32, 16, niter=10, seed=1, gpu=on_gpus, max_points_per_centroid=256)
        means.train(points)
        return float((means.iteration_stats or [])[-1]["obj"])

    gpus = faiss.get_num_gpus() if gpu else 0
    return KmeansCheck(faiss.__version__, gpus, objective(False), objective(True) if gpus else None)


def kmeans_tried(gpu: bool) -> KmeansCheck:
    """Run `check_kmeans` in a process of its own, which ends with this one.

    Raises:
        RuntimeError: it failed or did not end in time; the text is what it said last.
    """
    command = [sys.executable, "-m", "xdc_core.compute.kmeans_check", str(os.getpid()), *([] if gpu else [CPU])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=ROOT, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no answer within {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"ended with exit code {done.returncode}"])[-1])
    return KmeansCheck(**json.loads(done.stdout.splitlines()[-1]))


def faiss_gpus() -> FaissGpus:
    """Find out on how many GPUs faiss's k-means works. Takes seconds where NVIDIA's driver is installed."""
    if not driver_there():
        return FaissGpus(0, "", "")
    try:
        found = kmeans_tried(gpu=True)
    except RuntimeError as error:
        return FaissGpus(0, f"k-means fails on the GPU: {error}", "")
    if found.gpu is not None and abs(found.gpu / found.cpu - 1) > TOLERANCE:
        why = f"k-means is wrong on the GPU: its objective is {found.gpu:.6g}, on the CPU {found.cpu:.6g}"
        return FaissGpus(0, why, found.version)
    if not found.gpus and any(DRIVER_GPUS.glob("*")):
        return FaissGpus(0, "faiss does not use the GPU of this machine: faiss-cpu cannot", found.version)
    return FaissGpus(found.gpus, "", found.version)


def driver_there() -> bool:
    """Whether NVIDIA's driver is installed; without it there is nothing to try. Does not start CUDA."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    die_with_parent(signal.SIGKILL, int(sys.argv[1]))
    print(json.dumps(asdict(check_kmeans(gpu=CPU not in sys.argv))))
