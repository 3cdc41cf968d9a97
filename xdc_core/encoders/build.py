"""The table of encoders by name, readable without torch, and how one is made from a name and a seed."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from shards.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder.

    name: the name in a configuration, and of the function that makes it. modality: whose tensors it takes.
    width: numbers in its feature. module: where the function is; imported only when the encoder is built.
    """

    name: str
    modality: Literal["video", "audio"]
    width: int
    module: str

    def build(self) -> "nn.Module":
        """The network without meaningful weights; see `build_encoder`."""
        module: nn.Module = getattr(import_module(self.module), self.name)()
        return module


ENCODERS: Mapping[str, EncoderSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            EncoderSpec("r2plus1d_18", "video", 512, "xdc_core.encoders.r2plus1d"),
            EncoderSpec("torchvision_r2plus1d_18", "video", 512, "xdc_core.encoders.torchvision_r2plus1d"),
            EncoderSpec("r2plus1d_tiny", "video", 64, "xdc_core.encoders.r2plus1d"),
            EncoderSpec("audio_resnet_18", "audio", 512, "xdc_core.encoders.audio_resnet"),
            EncoderSpec("audio_resnet_tiny", "audio", 64, "xdc_core.encoders.audio_resnet"),
        )
    }
)


def encoder_spec(name: str) -> EncoderSpec:
    """The entry of `ENCODERS`. Raises ConfigError for an unknown name."""
    if name not in ENCODERS:
        raise ConfigError(f"unknown encoder {name!r}; choose one of {', '.join(sorted(ENCODERS))}")
    return ENCODERS[name]


def build_encoder(name: str, seed: int) -> "nn.Module":
    """A randomly initialised encoder in training mode on the CPU, float32, with the attribute `width: int`.

    Its weights depend on name and seed only; the process's own random generators are neither read nor moved.
    Encoders with the same seed and different names are unrelated. Convolutions: normal with variance 2 / fan_out
    (VMZ's filling) and bias 0; batch norm: weight 1, bias 0, running mean 0 and variance 1.

    Raises ConfigError for an unknown name.
    """
    spec = encoder_spec(name)
    import torch
    from torch import nn

    # The modules' own first weights are drawn from the process's generator: put it back. (Building on the meta device
    # would draw nothing, but loads sympy, which takes longer than drawing.)
    with torch.random.fork_rng(devices=[]):
        encoder = spec.build()
    digest = hashlib.sha256(f"{name}/{seed}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    for path, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.reset_parameters()
        elif [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            raise TypeError(f"build_encoder: no rule to initialise {path} ({type(module).__name__}) of {name}")
    return encoder
