"""The optimiser and the learning rate of every step."""

import math

import torch
from torch import nn

from xdc_core.config.training import TrainSettings


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Make SGD with Nesterov momentum (as in VMZ), or AdamW.

    `decay_on` selects the parameters with weight decay. VMZ's Caffe2 code decays weights and the scales of batch
    norms, not biases (its AddWeightDecay takes what is tagged as a weight); its PyTorch port decays all.
    """
    named = dict(model.named_parameters())
    undecayed = undecayed_parameters(model, settings.decay_on)
    groups = [
        {"params": [named[name] for name in named if name not in undecayed], "weight_decay": settings.weight_decay},
        {"params": [named[name] for name in named if name in undecayed], "weight_decay": 0.0},
    ]
    groups = groups[: 2 if undecayed else 1]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)
    return torch.optim.AdamW(groups, lr=settings.lr)


def undecayed_parameters(model: nn.Module, decay_on: str) -> set[str]:
    """Return the names of a model's parameters without weight decay: see `decay_on` in TrainSettings."""
    return {
        name
        for name, parameter in model.named_parameters()
        if (decay_on != "all" and name.endswith("bias")) or (decay_on == "weights" and parameter.ndim == 1)
    }


def peak_rate(settings: TrainSettings) -> float:
    """Return the learning rate after the warm-up: `lr`, times batch / `lr_per` if that is set (as in VMZ)."""
    return settings.lr if settings.lr_per is None else settings.lr * settings.batch / settings.lr_per


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """Return the learning rate of a step, 0 to steps - 1: a linear rise in the warm-up, then the schedule."""
    peak = peak_rate(settings)
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    if settings.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * share))
    if settings.schedule == "step":
        return peak * settings.gamma ** sum(share >= milestone for milestone in settings.milestones)
    return peak
