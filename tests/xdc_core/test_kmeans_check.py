"""k-means is tried in a process of its own before a GPU gets it. What it says of GPUs is invented here."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import alive, wait_for
from xdc_core.compute import kmeans_check
from xdc_core.compute.kmeans_check import KmeansCheck, faiss_gpus, kmeans_tried

ABORTED = "Faiss assertion 'err__ == cudaSuccess' failed: CUDA error 209 no kernel image is available\n"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that NVIDIA's driver is installed, and lists no GPU."""
    monkeypatch.setattr(kmeans_check, "driver_there", lambda: True)
    monkeypatch.setattr(kmeans_check, "DRIVER_GPUS", Path("nowhere"))


def found(gpus: int, cpu: float, gpu: float | None) -> Any:
    return lambda gpu_asked=True, **_: KmeansCheck("1.15.1", gpus, cpu, gpu)


def test_the_real_one_clusters_on_this_cpu() -> None:
    tried = kmeans_tried(gpu=False)
    assert (tried.gpus, tried.gpu) == (0, None)
    # 4,096 points with 32 normal numbers each: their variance is 131,072, and 16 centroids take a part of it away.
    assert 0.8 * 4096 * 32 < tried.cpu < 0.95 * 4096 * 32


def test_without_a_driver_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans_check, "driver_there", lambda: False)
    monkeypatch.setattr(subprocess, "run", None)
    assert faiss_gpus() == (0, "", "")


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("tried", "answer"),
    [
        (found(2, 1000.0, 1001.0), (2, "")),
        (found(0, 1000.0, None), (0, "")),
        (found(1, 1000.0, 1200.0), (0, "k-means is wrong on the GPU: its objective is 1200, on the CPU 1000")),
    ],
)
def test_gpus_count_only_with_the_result_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tried: Any, answer: tuple[int, str]
) -> None:
    monkeypatch.setattr(kmeans_check, "kmeans_tried", tried)
    assert faiss_gpus() == (*answer, "1.15.1")


@pytest.mark.usefixtures("driver")
def test_a_process_that_cuda_ends_is_told_of_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run
    dying = f"import os, sys; sys.stderr.write({ABORTED!r}); sys.stderr.flush(); os.abort()"
    monkeypatch.setattr(subprocess, "run", lambda _, **how: real([sys.executable, "-c", dying], **how))
    assert faiss_gpus() == (0, f"k-means fails on the GPU: {ABORTED.strip()}", "")


@pytest.mark.usefixtures("driver")
def test_a_process_that_hangs_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(subprocess, "run", lambda _, **how: real(sleeping, **how))
    monkeypatch.setattr(kmeans_check, "TIMEOUT_S", 0.5)
    assert faiss_gpus() == (0, "k-means fails on the GPU: no answer within 0 s", "")


@pytest.mark.usefixtures("driver")
def test_a_gpu_of_the_machine_that_faiss_does_not_see_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kmeans_check, "DRIVER_GPUS", tmp_path)
    monkeypatch.setattr(kmeans_check, "kmeans_tried", found(0, 1000.0, None))
    assert faiss_gpus().why == ""
    (tmp_path / "0000:01:00.0").mkdir()
    assert faiss_gpus() == (0, "faiss does not use the GPU of this machine: faiss-cpu cannot", "1.15.1")


def test_the_trial_ends_when_who_has_started_it_is_killed(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    (tmp_path / "faiss.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(started)!r}).write_text(f'{{os.getpid()}} ')\ntime.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{kmeans_check.ROOT}"}
    code = "from xdc_core.compute.kmeans_check import kmeans_tried; kmeans_tried(gpu=False)"
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    try:
        wait_for("the trial", lambda: started.exists() and started.read_text().endswith(" "), 60, of=parent)
    finally:
        parent.kill()
        parent.wait()
    wait_for("the trial to end", lambda: not alive(int(started.read_text())), 10)
