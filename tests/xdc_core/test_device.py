"""Which device is chosen, and what is said of GPUs that cannot be used. PyTorch's answers about CUDA are invented here:
no test has run on a GPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch

from shards.errors import ConfigError
from xdc_core.compute import device as devices
from xdc_core.compute.device import NVML_CHECK, choose_device, runs_on
from xdc_core.config.load import parse_config
from xdc_core.config.schema import Config

# What PyTorch 2.13 says, word by word.
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)
BUILT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@dataclass
class FakeCuda:
    """GPUs by name and compute capability; `start` and `broken` are what starting CUDA and using a GPU raise."""

    gpus: list[tuple[str, tuple[int, int]]]
    start: Exception | None = None
    broken: dict[int, str] = field(default_factory=dict)
    current: list[torch.device] = field(default_factory=list)

    def init(self) -> None:
        if self.start:
            raise self.start

    def one_plus_one(self, device: torch.device) -> float:
        if device.index in self.broken:
            raise RuntimeError(self.broken[device.index])
        return 2.0


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """One H100 that works, until a test changes it."""
    fake = FakeCuda([("NVIDIA H100", (9, 0))])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(fake.gpus))
    monkeypatch.setattr(torch.cuda, "init", fake.init)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: fake.gpus[number][0])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: fake.gpus[number][1])
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: BUILT)
    monkeypatch.setattr(torch.cuda, "set_device", fake.current.append)
    monkeypatch.setattr(devices, "one_plus_one", fake.one_plus_one)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    yield fake
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def asking(device: str) -> Config:
    return parse_config({"runs_on": {"device": device}}, "a test")


def test_a_gpu_that_works_is_taken_and_nothing_is_said(cuda: FakeCuda, capsys: pytest.CaptureFixture[str]) -> None:
    choice = choose_device(asking("auto").runs_on)
    assert (choice.device, str(choice)) == (torch.device("cuda", 0), "cuda:0")
    assert capsys.readouterr().err == ""


def test_gpus_compute_with_tf32_and_tried_convolutions_and_cpus_are_left_as_they_are(cuda: FakeCuda) -> None:
    choose_device(asking("cpu").runs_on)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark) == (False, False)
    choose_device(asking("auto").runs_on)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark) == (True, True)


def test_with_a_driver_that_is_too_old_the_cpu_is_taken_and_why_is_said(
    cuda: FakeCuda, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a child of the fork servers, where PyTorch itself says that there is a GPU.
    monkeypatch.setenv(NVML_CHECK, "1")
    assert torch.cuda.is_available()
    cuda.start = RuntimeError(TOO_OLD)
    choice = choose_device(asking("auto").runs_on)
    assert choice.device == torch.device("cpu")
    why = (
        "PyTorch cannot use the 1 GPU here: the NVIDIA driver is too old. It supports CUDA 12.4, but PyTorch "
        f"{torch.__version__} is built for CUDA 13.0, which needs driver 580 or newer. Update the driver, or install a "
        "PyTorch for CUDA 12"
    )
    assert str(choice) == f"cpu ({why})"
    assert capsys.readouterr().err == f"warning: computing on cpu ({why})\n"
    with pytest.raises(
        ConfigError, match=r"^runs_on\.device is cuda, but PyTorch cannot use.*580 or newer.*xdc doctor"
    ):
        choose_device(asking("cuda").runs_on)


def test_after_the_choice_nothing_in_the_process_is_told_of_a_gpu_that_does_not_work(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NVML_CHECK, "1")
    cuda.start = RuntimeError(TOO_OLD)
    choose_device(asking("auto").runs_on)
    assert not torch.cuda.is_available()


def test_without_a_gpu_the_cpu_is_taken_in_silence_unless_cuda_was_asked_for(
    cuda: FakeCuda, capsys: pytest.CaptureFixture[str]
) -> None:
    cuda.gpus = []
    assert str(choose_device(asking("auto").runs_on)) == "cpu"
    assert capsys.readouterr().err == ""
    with pytest.raises(ConfigError, match=r"runs_on\.device is cuda, but PyTorch finds no GPU here\. Set it to auto"):
        choose_device(asking("cuda").runs_on)


def test_cpu_asks_nothing_of_a_gpu(cuda: FakeCuda) -> None:
    cuda.start = AssertionError("CUDA was started")
    assert str(choose_device(asking("cpu").runs_on)) == "cpu"


V100 = (
    f"GPU 0 (Tesla V100) has compute capability 7.0, but PyTorch {torch.__version__} is built for sm_75, sm_80, sm_86, "
    "sm_90, sm_100, sm_120: install a PyTorch that was built for sm_70"
)


def test_a_gpu_for_which_pytorch_was_not_built_is_named(cuda: FakeCuda) -> None:
    cuda.gpus = [("Tesla V100", (7, 0))]
    assert str(choose_device(asking("auto").runs_on)) == f"cpu ({V100})"
    with pytest.raises(ConfigError, match=r"Tesla V100.* capability 7\.0"):
        choose_device(asking("cuda").runs_on)


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_beside_a_gpu_that_cannot_be_used_another_one_is_taken(cuda: FakeCuda, asked: str) -> None:
    cuda.gpus = [("Tesla V100", (7, 0)), ("NVIDIA H100", (9, 0))]
    assert str(choose_device(asking(asked).runs_on)) == f"cuda:1 ({V100})"
    assert cuda.current == [torch.device("cuda", 1)], "nothing of the process goes to GPU 0"


def test_a_gpu_without_memory_is_passed_over(cuda: FakeCuda) -> None:
    cuda.gpus *= 2
    cuda.broken = {0: "CUDA out of memory. Tried to allocate 2.00 MiB.\nlong advice"}
    choice = choose_device(asking("auto").runs_on)
    assert str(choice) == (
        "cuda:1 (GPU 0 (NVIDIA H100) does not work: CUDA out of memory. Tried to allocate 2.00 MiB.)"
    )


@pytest.mark.parametrize(("broken", "taken"), [(None, [0, 1, 2, 3]), (0, [1, 2, 3]), (1, [0, 2, 3])])
def test_every_process_of_a_training_has_a_gpu_of_its_own_or_the_training_ends(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, broken: int | None, taken: list[int]
) -> None:
    cuda.gpus *= 4
    cuda.broken = {} if broken is None else {broken: "CUDA error: uncorrectable ECC error"}
    monkeypatch.setenv("WORLD_SIZE", "5")
    found = []
    for rank in range(len(taken)):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        found.append(choose_device(asking("auto").runs_on).device.index)
    assert found == taken
    monkeypatch.setenv("LOCAL_RANK", str(len(taken)))
    with pytest.raises(ConfigError, match=rf"process {len(taken)} .*: {len(taken)} of 4 GPUs work.*train\.processes"):
        choose_device(asking("auto").runs_on)


def test_without_any_gpu_all_processes_of_a_training_take_the_cpu(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for start, gpus in ((None, []), (RuntimeError(TOO_OLD), cuda.gpus * 2)):
        cuda.start, cuda.gpus = start, gpus
        for rank in ("0", "1"):
            monkeypatch.setenv("LOCAL_RANK", rank)
            assert choose_device(asking("auto").runs_on).device == torch.device("cpu")


@pytest.mark.parametrize(
    ("capability", "built", "fits"),
    [
        ((7, 0), BUILT, False),
        ((7, 5), BUILT, True),
        ((8, 9), BUILT, True),  # By sm_80 or sm_86.
        ((10, 3), BUILT, True),
        ((11, 0), BUILT, False),
        ((12, 1), BUILT, True),
        ((8, 0), ["sm_86"], False),
        ((12, 0), ["sm_90", "compute_90"], True),  # The driver translates.
        ((8, 6), ["sm_70", "compute_90"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_90a", "compute_90a"], False),
        ((10, 3), ["sm_100f"], True),
        ((10, 3), ["sm_100a"], False),
        ((12, 0), ["sm_100f", "compute_100f"], False),
        ((9, 0), ["gfx90a"], True),  # Nothing that we could judge by.
        ((9, 0), [], True),
    ],
)
def test_code_runs_on_later_gpus_of_its_generation_and_translated_code_on_all_later_ones(
    capability: tuple[int, int], built: list[str], fits: bool
) -> None:
    assert runs_on(capability, built) is fits
