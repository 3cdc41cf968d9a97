"""On what a stage computes."""

import os

import torch

from shards.errors import ConfigError
from xdc_core.config import Config


def choose_device(config: Config) -> torch.device:
    """The device of this process: the configured one, or the GPU with this process's local rank where there is one.

    Raises:
        ConfigError: cuda was asked for and there is none.
    """
    wanted = config.runs_on.device
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ConfigError("runs_on.device is cuda, but PyTorch finds no GPU here. Set it to auto, or see: xdc doctor")
    if wanted == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
