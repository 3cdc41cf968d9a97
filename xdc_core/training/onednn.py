"""A workaround for a defect of oneDNN, PyTorch's library for convolutions on CPUs."""

from collections.abc import Callable

from torch import Tensor, nn


def avoid_small_strided_convolutions(model: nn.Module) -> None:
    """Replace the stride of 1x1 convolutions over fewer than 16 planes by a subsampled input. The result is the same.

    In the layout channels_last, oneDNN's AVX-512 gradient of such weights writes beyond its memory, and the process
    crashes sooner or later (observed with torch 2.13). torch.compile chooses that layout by itself. Among the encoders
    of this package, audio_resnet_tiny has such convolutions.
    """
    for module in model.modules():
        if not isinstance(module, nn.Conv2d) or module.kernel_size != (1, 1) or module.in_channels >= 16:
            continue
        down, right = module.stride
        if (down, right) != (1, 1):
            module.register_forward_pre_hook(_subsample_input(down, right))
            module.stride = (1, 1)


def _subsample_input(down: int, right: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def skip(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][:, :, ::down, ::right],)

    return skip
