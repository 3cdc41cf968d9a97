"""The optimiser and the learning rate of every step."""

import math
from collections.abc import Iterable

import torch

from xdc_core.config import TrainSettings


def make_optimizer(parameters: Iterable[torch.nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum (as VMZ), or AdamW."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
        )
    return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """Of step 0 .. steps - 1: a linear rise over the warm-up, then the schedule."""
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 + math.cos(math.pi * share))
    if settings.schedule == "step":
        return settings.lr * 0.1 ** int(3 * share)
    return settings.lr
