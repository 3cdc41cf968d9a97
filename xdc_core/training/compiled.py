"""torch.compile, with an error that is easy to read if there is no compiler."""

import torch
from torch import nn

from shards.errors import ConfigError


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """Compile a model for batches of one shape. The model itself and its parameter names do not change.

    Raises:
        ConfigError: PyTorch cannot compile for `device` on this machine. This is raised before the first step.
    """
    torch.compiler.reset()  # Models compiled earlier in this process count towards a limit.
    try:
        # Without this test the first step would fail, after minutes, with a long error of the compiler.
        torch.compile(lambda x: 2 * x + 1)(torch.ones(8, device=device))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = next((line for line in lines if line and not line.startswith("backend=")), type(error).__name__)
        raise ConfigError(
            f"train.compile is true, but PyTorch cannot compile for {device.type} here: {reason}. "
            "Set it to false, or install a C++ compiler (g++)."
        ) from error
    return torch.compile(model, dynamic=False)  # type: ignore[return-value]
