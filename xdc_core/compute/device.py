"""Which device a stage computes on, and what PyTorch says of the GPUs that it cannot use. Needs torch alone."""

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
    """A device, and why it is not the GPU that one might expect ("" where nothing is amiss)."""

    device: torch.device
    why: str

    def __str__(self) -> str:
        return f"{self.device} ({self.why})" if self.why else str(self.device)


def choose_device(runs_on: "RunsOn", processes: str = "train.processes") -> Choice:
    """Choose the device of this process: the CPU, or of the GPUs that work the one at this process's local rank.

    A GPU counts if CUDA starts, if PyTorch was built for its architecture, and if it adds two numbers: this starts CUDA
    in this process, and makes the chosen GPU its current one. With `auto`, a GPU that cannot be used is passed over for
    another one, or for the CPU, and a warning on stderr says why. `processes` is the setting that has the number of
    training processes.

    Raises:
        ConfigError: cuda was asked for, and no GPU works; or this is one of several training processes, and fewer GPUs
            work than these need. Says why.
    """
    wanted = runs_on.device
    if wanted == "cpu":
        return Choice(torch.device("cpu"), "")
    rank, ranks = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    found = find_gpus(rank + 1)
    why = "; ".join(found.refused)
    if rank < len(found.working):
        tune_gpu()
        choice = Choice(torch.device("cuda", found.working[rank]), why)
        torch.cuda.set_device(choice.device)  # Else whatever names no GPU, as pinning memory does, would use GPU 0.
    elif ranks > 1 and found.there:  # Some processes on GPUs and others on the CPU could not train together.
        raise ConfigError(
            f"training process {rank} (of {processes}, counted from 0) has no GPU of its own: {len(found.working)} "
            f"of {found.there} GPUs work{f' ({why})' if why else ''}. Lower {processes}, or set runs_on.device to "
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
    """The numbers of GPUs that work, in order, why those before or between them do not, and how many are there.

    `there` is 0 where CUDA does not start; `refused` then says why, or is empty where the machine has no GPU.
    """

    working: list[int]
    refused: list[str]
    there: int


def find_gpus(wanted: int) -> Gpus:
    """Find the first `wanted` GPUs that work. Every process that asks finds them in the same order."""
    count, trouble = start_cuda()
    found = Gpus([], [trouble] if trouble else [], 0 if trouble else count)
    for number in range(found.there):
        if len(found.working) == wanted:
            break
        if trouble := gpu_trouble(number):
            found.refused.append(trouble)
        else:
            found.working.append(number)
    return found


def start_cuda() -> tuple[int, str]:
    """Start CUDA in this process. Returns the number of GPUs, and why PyTorch can use none of them ("": it can)."""
    os.environ.pop(NVML_CHECK, None)  # From here on PyTorch counts only GPUs that it can use.
    count = torch.cuda.device_count()  # By NVML, where that is there: it counts what an old driver cannot use, too.
    if not count:
        return 0, ""
    try:
        torch.cuda.init()
        return torch.cuda.device_count(), ""
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        return count, f"PyTorch cannot use the {count} GPU{'s' if count > 1 else ''} here: {explain(error)}"


def explain(error: BaseException) -> str:
    """In one line why CUDA does not start."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    found = re.search(r"driver on your system is too old \(found version (\d+)\)", text)
    if not found:
        return text
    supports = f"{int(found[1]) // 1000}.{int(found[1]) % 1000 // 10}"
    built = str(torch.version.cuda)
    oldest = DRIVERS.get(int(built.split(".")[0]))
    needed = f", which needs driver {oldest} or newer" if oldest else ""
    return (
        f"the NVIDIA driver is too old. It supports CUDA {supports}, but PyTorch {torch.__version__} is built for CUDA "
        f"{built}{needed}. Update the driver, or install a PyTorch for CUDA {supports.split('.')[0]}"
    )


def gpu_trouble(number: int) -> str:
    """Why PyTorch cannot use GPU `number` ("": it can). CUDA must have been started."""
    name = f"GPU {number} ({torch.cuda.get_device_name(number)})"
    capability, built = torch.cuda.get_device_capability(number), torch.cuda.get_arch_list()
    if not runs_on(capability, built):
        return (
            f"{name} has compute capability {capability[0]}.{capability[1]}, but PyTorch {torch.__version__} is built "
            f"for {', '.join(built)}: install a PyTorch that was built for sm_{capability[0]}{capability[1]}"
        )
    try:
        return "" if one_plus_one(torch.device("cuda", number)) == 2 else f"{name} computes 1 + 1 wrongly"
    except RuntimeError as error:  # Out of memory, in use by another process alone, a broken card.
        return f"{name} does not work: {str(error).strip().splitlines()[0]}"


def one_plus_one(device: torch.device) -> float:
    """Return 1 + 1 as `device` computes it.

    Raises:
        RuntimeError: it does not compute.
    """
    return torch.ones(1, device=device).add(1).item()


def runs_on(capability: tuple[int, int], built: list[str]) -> bool:
    """Whether code for `built` (such as sm_90, sm_90a, compute_120) runs on a GPU of this compute capability.

    sm_XY holds machine code for GPUs X.Y and later ones of the same X; compute_XY is translated by the driver for any
    GPU from X.Y on. With an `a` both are for X.Y alone, with an `f` for the same X. True where none of these is listed.
    """
    found = [re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name) for name in built]
    kinds = [(match[1], (int(match[2]), int(match[3])), match[4]) for match in found if match]
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
    """Set what stages and benchmarks compute with on GPUs: float32 products as TF32, convolutions chosen by trying.

    TF32 rounds the factors of a float32 product to 10 bits of mantissa and adds in float32; PyTorch's own default is so
    for convolutions, but not for matrix products. Trying out convolutions (cudnn.benchmark) costs a moment at each new
    shape. Neither concerns CPUs.
    """
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
