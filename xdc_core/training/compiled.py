"""torch.compile, where there is a compiler."""

import torch
from torch import nn

from shards.errors import ConfigError


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """`torch.compile` of a model for batches of one shape. The model itself, and the names in it, stay as they are.

    Raises:
        ConfigError: PyTorch cannot compile for `device` on this machine; nothing has been trained yet.
    """
    torch.compiler.reset()  # Models that this process compiled before count towards a limit, beyond which none is.
    try:
        # Without this trial the first step would fail, after minutes, in words for those who write compilers.
        torch.compile(lambda x: 2 * x + 1)(torch.ones(8, device=device))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = next((line for line in lines if line and not line.startswith("backend=")), type(error).__name__)
        raise ConfigError(
            f"train.compile is true, but PyTorch cannot compile for {device.type} here: {reason}. "
            "Set it to false, or install a C++ compiler (g++)."
        ) from error
    return torch.compile(model, dynamic=False)  # type: ignore[return-value]
