"""`xdc doctor` says of GPUs what stages do with them. What PyTorch and faiss say of GPUs is invented here."""

from pathlib import Path

import pytest
import torch

from flows.cli.machine import gpus
from xdc_core.compute import device, kmeans_check
from xdc_core.compute.device import choose_device
from xdc_core.compute.kmeans_check import KmeansCheck
from xdc_core.config.load import parse_config

OLD = "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by ..."


def cuda_that_does_not_start() -> None:
    raise RuntimeError(OLD)


def test_of_a_driver_that_is_too_old_doctor_and_stages_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", cuda_that_does_not_start)
    (row,) = gpus.torch_and_gpus()
    chosen = choose_device(parse_config({}, "a test").runs_on)
    assert (row["what"], row["state"]) == ("GPU", "absent")
    assert row["text"] == f"{chosen.why}. The CPU is used"
    assert "supports CUDA 12.2" in chosen.why


def test_each_gpu_has_a_line_and_the_first_that_works_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    names, capabilities, checked = ["Tesla V100", "NVIDIA H100"], [(7, 0), (9, 0)], []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])
    monkeypatch.setattr(device, "one_plus_one", lambda _: 2.0)
    monkeypatch.setattr(gpus, "convolutions", lambda where: checked.append(where) or {"what": "bfloat16"})
    old, new, _ = gpus.torch_and_gpus()
    assert (old["state"], new["state"], checked) == ("absent", "works", ["cuda:1"])
    assert "Tesla V100) has compute capability 7.0" in old["text"]
    assert new["text"].startswith("1: NVIDIA H100, CUDA ")


@pytest.mark.parametrize(
    ("driver", "there", "tried", "state", "text"),
    [
        (True, 2, [True], "works", "1.15.1, k-means on 2 GPUs, as on the CPU"),
        (True, 0, [True], "works", "1.15.1, k-means on the CPU"),
        (False, 0, [False], "works", "1.15.1, k-means on the CPU"),
        (True, None, [True, False], "absent", "1.15.1, k-means fails on the GPU: aborted. The CPU is used"),
    ],
)
def test_k_means_is_run_once_before_it_is_said_to_work_and_again_on_the_cpu_where_it_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    driver: bool,
    there: int | None,
    tried: list[bool],
    state: str,
    text: str,
) -> None:
    calls = []

    def try_kmeans(gpu: bool) -> KmeansCheck:
        calls.append(gpu)
        if gpu and there is None:
            raise RuntimeError("aborted")
        return KmeansCheck("1.15.1", there or 0, 1.0, 1.0 if there else None)

    monkeypatch.setattr(kmeans_check, "driver_there", lambda: driver)
    monkeypatch.setattr(kmeans_check, "DRIVER_GPUS", tmp_path)
    monkeypatch.setattr(kmeans_check, "kmeans_tried", try_kmeans)
    row = gpus.faiss()
    assert (row["state"], row["text"], calls) == (state, text, tried)


def test_a_faiss_that_does_not_load_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(gpu: bool) -> KmeansCheck:
        raise RuntimeError("ImportError: libfaiss.so: undefined symbol")

    monkeypatch.setattr(kmeans_check, "kmeans_tried", broken)
    assert gpus.faiss() == {"what": "faiss", "state": "broken", "text": "ImportError: libfaiss.so: undefined symbol"}
