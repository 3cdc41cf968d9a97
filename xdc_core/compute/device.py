"""Choose the device of a stage, and explain why PyTorch cannot use a GPU. This needs only torch."""

import os
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

import torch

from shards.errors import ConfigError

if TYPE_CHECKING:
    from xdc_core.config.schema import RunsOn

# CUDA's major version -> the oldest NVIDIA driver that runs programs built for it (CUDA's release notes).
DRIVERS = {12: 525, 13: 580}
# While this is set, torch.cuda.is_available() asks NVML, which counts GPUs that the driver is too old to use.
NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"


class Choice(NamedTuple):
    """A device, and why it is not the expected GPU ("" if it is)."""

    device: torch.device
    why: str

    def __str__(self) -> str:
        return f"{self.device} ({self.why})" if self.why else str(self.device)


def choose_device(runs_on: "RunsOn", processes: str = "train.processes") -> Choice:
    """Choose the device of this process: the CPU, or the working GPU at this process's local rank.

    A GPU counts if CUDA starts, if PyTorch was built for its architecture, and if it adds two numbers: this starts CUDA
    in this process and makes the chosen GPU its current one. With `auto`, a GPU that cannot be used is replaced
    by another one or by the CPU, with a warning on stderr. `processes` is the setting that has the number of
    training processes.

    Raises:
        ConfigError: cuda was requested and no GPU works; or this is one of several training processes, and there are
            fewer working GPUs. The text says why.
    """
    wanted = runs_on.device
    if wanted == "cpu":
        return Choice(torch.device("cpu"), "")
    rank, ranks = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    gpus = find_gpus(rank + 1)
    why = "; ".join(gpus.refused)
    if rank < len(gpus.working):
        tune_gpu()
        choice = Choice(torch.device("cuda", gpus.working[rank]), why)
        torch.cuda.set_device(
            choice.device
        )  # Otherwise calls without a GPU number, such as pinning memory, would use GPU 0.
    elif ranks > 1 and gpus.there:  # Some processes on GPUs and others on the CPU could not train together.
        raise ConfigError(
            f"training process {rank} (of {processes}, counted from 0) has no GPU of its own: {len(gpus.working)} "
            f"of {gpus.there} GPUs work{f' ({why})' if why else ''}. Lower {processes}, or set runs_on.device to "
            "cpu."
        )
    elif wanted == "cuda":
        why = why or "PyTorch finds no GPU here"
        raise ConfigError(f"runs_on.device is cuda, but {why}. Set it to auto, or see: xdc doctor")
    else:
        choice = Choice(torch.device("cpu"), why)
    if choice.why:
        print(f"warning: computing on {choice}", file=sys.stderr, flush=True)
    return choice


class Gpus(NamedTuple):
    """The numbers of the working GPUs, in order, why others before or between them do not work, and the number of all.

    `there` is 0 if CUDA does not start; `refused` then says why, or is empty if the machine has no GPU.
    """

    working: list[int]
    refused: list[str]
    there: int


def find_gpus(wanted: int) -> Gpus:
    """Find the first `wanted` working GPUs. The order is the same in every process."""
    count, trouble = start_cuda()
    gpus = Gpus([], [trouble] if trouble else [], 0 if trouble else count)
    for number in range(gpus.there):
        if len(gpus.working) == wanted:
            break
        if trouble := gpu_trouble(number):
            gpus.refused.append(trouble)
        else:
            gpus.working.append(number)
    return gpus


def start_cuda() -> tuple[int, str]:
    """Start CUDA in this process. Return the number of GPUs, and why PyTorch cannot use any ("" if it can)."""
    os.environ.pop(NVML_CHECK, None)  # From here on PyTorch counts only GPUs that it can use.
    count = torch.cuda.device_count()  # By NVML, if it is installed: it also counts GPUs that an old driver cannot use.
    if not count:
        return 0, ""
    try:
        torch.cuda.init()
        return torch.cuda.device_count(), ""
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        return count, f"PyTorch cannot use the {count} GPU{'s' if count > 1 else ''} here: {explain(error)}"


def explain(error: BaseException) -> str:
    """Return in one line why CUDA does not start."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    match = re.search(r"driver on your system is too old \(found version (\d+)\)", text)
    if not match:
        return text
    supports = f"{int(match[1]) // 1000}.{int(match[1]) % 1000 // 10}"
    built = str(torch.version.cuda)
    oldest = DRIVERS.get(int(built.split(".")[0]))
    needed = f", which needs driver {oldest} or newer" if oldest else ""
    return (
        f"the NVIDIA driver is too old. It supports CUDA {supports}, but PyTorch {torch.__version__} is built for CUDA "
        f"{built}{needed}. Update the driver, or install a PyTorch for CUDA {supports.split('.')[0]}"
    )


def gpu_trouble(number: int) -> str:
    """Return why PyTorch cannot use GPU `number` ("" if it can). CUDA must have been started."""
    name = f"GPU {number} ({torch.cuda.get_device_name(number)})"
    capability, built = torch.cuda.get_device_capability(number), torch.cuda.get_arch_list()
    if not runs_on(capability, built):
        return (
            f"{name} has compute capability {capability[0]}.{capability[1]}, but PyTorch {torch.__version__} is built "
            f"for {', '.join(built)}: install a PyTorch that was built for sm_{capability[0]}{capability[1]}"
        )
    try:
        return "" if one_plus_one(torch.device("cuda", number)) == 2 else f"{name} computes 1 + 1 wrongly"
    except RuntimeError as error:  # Out of memory, in exclusive use by another process, or defective.
        return f"{name} does not work: {str(error).strip().splitlines()[0]}"


def one_plus_one(device: torch.device) -> float:
    """Return 1 + 1 as `device` computes it.

    Raises:
        RuntimeError: it does not compute.
    """
    return torch.ones(1, device=device).add(1).item()


def runs_on(capability: tuple[int, int], built: list[str]) -> bool:
    """Return whether code for `built` (such as sm_90, sm_90a, compute_120) runs on a GPU of this compute capability.

    sm_XY holds machine code for GPUs X.Y and later ones of the same X; compute_XY is translated by the driver for any
    GPU from X.Y on. With an `a` both are for X.Y only, with an `f` for the same X. True if none of these is listed.
    """
    matches = [re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name) for name in built]
    kinds = [(match[1], (int(match[2]), int(match[3])), match[4]) for match in matches if match]
    for kind, target, only in kinds:
        if only == "a":
            fits = capability == target
        elif kind == "sm" or only == "f":
            fits = capability[0] == target[0] and capability >= target
        else:
            fits = capability >= target
        if fits:
            return True
    return not kinds


def tune_gpu() -> None:
    """Set up computation on GPUs: float32 products as TF32, and convolution algorithms chosen by measurement.

    TF32 rounds the factors of a float32 product to 10 bits of mantissa and adds in float32; this is PyTorch's
    default for convolutions, but not for matrix products. Measuring convolutions (cudnn.benchmark) takes a moment at
    each new shape. Neither affects CPUs.
    """
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
