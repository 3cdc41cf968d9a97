"""Build an encoder from a name and a seed."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from xdc_core.encoders.registry import encoder_spec

if TYPE_CHECKING:
    from torch import nn


def build_encoder(name: str, seed: int, folder: Path | None = None) -> "nn.Module":
    """Return a randomly initialised encoder in training mode on the CPU, float32, with the attribute `width: int`.

    Its weights depend on name and seed only; the process's random generators are neither used nor changed.
    Encoders with the same seed and different names are unrelated. xdc's own encoders have convolution weights from
    a normal distribution with variance 2 / fan_out (as in VMZ) and bias 0; batch norm: weight 1, bias 0, running mean 0
    and variance 1. Other encoders draw their weights themselves, or read them from the folder of a model (hf:...).

    Raises:
        ConfigError: as `encoder_spec` and `EncoderSpec.build`.
    """
    spec = encoder_spec(name)
    import torch
    from torch import nn

    # The modules draw their first weights from the process's generator: restore it. (Building on the meta device would
    # not draw any, but imports sympy, which takes longer.)
    digest = hashlib.sha256(f"{name}/{seed}".encode()).digest()
    own_seed = int.from_bytes(digest[:8], "big") >> 1
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(own_seed)
        encoder = spec.build(folder)
    if not spec.filled:
        return encoder.float().train()
    generator = torch.Generator().manual_seed(own_seed)
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
