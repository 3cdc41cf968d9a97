"""The model that the protocol `all` trains, its optimiser, and the learning rate of every step."""

import torch
from torch import Tensor, nn

from xdc_core.config.finetune import FinetuneSettings
from xdc_core.training.optimiser import undecayed_parameters

LABEL = "label"  # The name of the only target.


class Classifier(nn.Module):
    """An encoder, dropout, and a linear head: views -> logits [B, classes], by the name of the target.

    detached: whether the encoder gets no gradient.
    """

    def __init__(self, encoder: nn.Module, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(int(encoder.width), classes)  # type: ignore[arg-type]
        self.detached = False

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """Return the logits of a batch of views."""
        features = self.encoder(views)
        return {LABEL: self.head(self.dropout(features.detach() if self.detached else features))}


def make_optimizer(model: nn.Module, settings: FinetuneSettings, head_alone: bool = False) -> torch.optim.Optimizer:
    """Make an optimiser of the encoder and the head, or of the head alone, each with its peak learning rate."""
    assert isinstance(model, Classifier)
    undecayed = undecayed_parameters(model, settings.decay_on)
    groups = []
    for part, peak in (("encoder", settings.body_lr), ("head", settings.head_lr)):
        if part == "encoder" and head_alone:
            continue
        own = {name: value for name, value in model.named_parameters() if name.startswith(f"{part}.")}
        for decays in (True, False) if undecayed else (True,):
            chosen = [value for name, value in own.items() if (name not in undecayed) == decays]
            decay = settings.weight_decay if decays else 0.0
            groups.append({"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay})
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups)
    return torch.optim.SGD(groups, momentum=0.9, nesterov=settings.nesterov)


def rate_share(settings: FinetuneSettings, epoch: int, step: int, steps: int) -> float:
    """Return the factor of the peak learning rates at a step of an epoch.

    epoch: from 0, counted with the epochs of the head alone, in which the factor is 1. step: from 0 to steps - 1.
    """
    epoch -= settings.head_epochs
    if epoch < 0:
        return 1.0
    at = epoch + (step + 1) / steps if settings.rates_change == "steps" else float(epoch)
    rise = min(1.0, at / settings.warmup) if settings.warmup else 1.0
    if settings.warmup_from:
        rise = settings.warmup_from + (1.0 - settings.warmup_from) * rise
    return rise * settings.factor ** sum(at >= milestone for milestone in settings.milestones)
