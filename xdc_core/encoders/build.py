"""How an encoder is made from a name and a seed."""

import hashlib
from typing import TYPE_CHECKING

from xdc_core.encoders.registry import encoder_spec

if TYPE_CHECKING:
    from torch import nn


def build_encoder(name: str, seed: int) -> "nn.Module":
    """Return a randomly initialised encoder in training mode on the CPU, float32, with the attribute `width: int`.

    Its weights depend on name and seed only; the process's own random generators are neither read nor moved.
    Encoders with the same seed and different names are unrelated. Of xdc's own encoders convolutions are normal with
    variance 2 / fan_out (VMZ's filling) and bias 0; batch norm: weight 1, bias 0, running mean 0 and variance 1.
    Others have the weights that they draw themselves.

    Raises:
        ConfigError: as `encoder_spec` and `EncoderSpec.build`.
    """
    spec = encoder_spec(name)
    import torch
    from torch import nn

    # The modules' own first weights are drawn from the process's generator: put it back. (Building on the meta device
    # would draw nothing, but loads sympy, which takes longer than drawing.)
    digest = hashlib.sha256(f"{name}/{seed}".encode()).digest()
    own_seed = int.from_bytes(digest[:8], "big") >> 1
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(own_seed)
        encoder = spec.build()
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
