"""Check a device's half-precision convolutions: some builds of cuDNN had wrong 3-d ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xdc_core.encoders.build import build_encoder

# A bfloat16 has 8 bits: sums of thousands of products differ from float32 by about 1 %, wrong kernels by far more.
TOLERANCE = 0.05
Convolution = nn.Conv2d | nn.Conv3d
# Encoders, and the shape of a batch of views for each, as in training on GPUs.
CHECKED: Mapping[str, tuple[int, ...]] = {"r2plus1d_18": (2, 3, 8, 112, 112), "audio_resnet_18": (2, 1, 100, 40)}


@dataclass(frozen=True)
class ConvolutionError:
    """The relative error of a layer in bfloat16: norm of the difference to float32 over the norm, for three results."""

    layer: str
    shape: tuple[int, ...]
    channels_last: bool
    output: float
    input_gradient: float
    weight_gradient: float

    @property
    def worst(self) -> float:
        """Return the largest of the three."""
        return max(self.output, self.input_gradient, self.weight_gradient)


def check_encoders(
    device: torch.device, encoders: Mapping[str, tuple[int, ...]] = CHECKED
) -> Iterator[tuple[str, ConvolutionError]]:
    """Check every layer of these encoders, by name, in both memory layouts. This takes seconds on a GPU."""
    for name, shape in encoders.items():
        encoder = build_encoder(name, 0).to(device)
        views = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        for channels_last in (False, True):
            for error in check_convolutions(encoder, views, channels_last):
                yield name, error


def check_convolutions(
    encoder: nn.Module, views: Tensor, channels_last: bool = False, dtype: torch.dtype = torch.bfloat16
) -> Iterator[ConvolutionError]:
    """Check every convolution of an encoder on the views' device, with its input for `views`.

    views: float32, an input of the encoder. A shape that occurs twice is checked once. The reference is float32 on the
    same device, without TF32.
    """
    inputs: dict[tuple[object, ...], tuple[str, Convolution, Tensor]] = {}

    def keep(name: str, module: Convolution) -> None:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            kind = (type(module), given[0].shape, module.weight.shape, module.stride, module.padding)
            inputs.setdefault(kind, (name, module, given[0].detach()))

        handles.append(module.register_forward_pre_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            keep(name, module)
    with torch.no_grad():
        encoder.eval()(views)
    for handle in handles:
        handle.remove()
    for name, module, given in inputs.values():
        exact = _results(module, given, None, False)
        half = _results(module, given, dtype, channels_last)
        distances = (_distance(ours, theirs) for ours, theirs in zip(half, exact, strict=True))
        yield ConvolutionError(name, tuple(given.shape), channels_last, *distances)


def _results(module: Convolution, given: Tensor, dtype: torch.dtype | None, channels_last: bool) -> tuple[Tensor, ...]:
    """Return the output, and the gradients of input and weight for one fixed gradient of the output."""
    last = torch.channels_last_3d if given.dim() == 5 else torch.channels_last
    layout = last if channels_last else torch.contiguous_format
    x = given.clone(memory_format=layout).requires_grad_()
    weight = module.weight.detach().clone(memory_format=layout).requires_grad_()
    convolve = torch.conv3d if given.dim() == 5 else torch.conv2d
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(given.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            output = convolve(x, weight, None, module.stride, module.padding, module.dilation, module.groups)
        generator = torch.Generator().manual_seed(0)
        gradient = torch.randn(output.shape, generator=generator).to(output.device, output.dtype)
        output.backward(gradient)
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert x.grad is not None
    assert weight.grad is not None
    return output.detach(), x.grad, weight.grad


def _distance(ours: Tensor, theirs: Tensor) -> float:
    difference = (ours.double() - theirs.double()).norm()
    return float(difference / theirs.double().norm().clamp_min(1e-30))
