"""A defect of oneDNN, PyTorch's library for convolutions on CPUs, and the way around it."""

from collections.abc import Callable

from torch import Tensor, nn


def avoid_small_strided_convolutions(model: nn.Module) -> None:
    """Have 1x1 convolutions with a stride over fewer than 16 planes skip places of their input instead. Same result.

    In the layout channels_last, the AVX-512 gradient of their weights writes beyond its memory: the process crashes,
    now or later (seen with torch 2.13). torch.compile chooses that layout by itself. Of our encoders this concerns
    audio_resnet_tiny.
    """
    for module in model.modules():
        if not isinstance(module, nn.Conv2d) or module.kernel_size != (1, 1) or module.in_channels >= 16:
            continue
        down, right = module.stride
        if (down, right) != (1, 1):
            module.register_forward_pre_hook(_skipping(down, right))
            module.stride = (1, 1)


def _skipping(down: int, right: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def skip(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][:, :, ::down, ::right],)

    return skip
