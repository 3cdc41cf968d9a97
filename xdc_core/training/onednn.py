"""A defect of oneDNN, PyTorch's library for convolutions on CPUs, and the way around it."""

from torch import nn


def avoid_small_strided_convolutions(model: nn.Module) -> None:
    """Have 1x1 convolutions of fewer than 16 planes with a stride skip places of their input instead. Same result.

    In the layout channels_last, the AVX-512 gradient of their weights writes beyond its memory: the process crashes,
    now or later (seen with torch 2.13). torch.compile chooses that layout by itself. Of our encoders this concerns
    audio_resnet_tiny.
    """
    for module in model.modules():
        small = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.in_channels < 16
        if small and module.stride != (1, 1):
            module.register_forward_pre_hook(_skipping(*module.stride))
            module.stride = (1, 1)


def _skipping(down: int, right: int):  # type: ignore[no-untyped-def]
    return lambda _, inputs: (inputs[0][:, :, ::down, ::right],)
