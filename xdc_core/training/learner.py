"""A model while it is being trained, and one step of that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from xdc_core.config.schema import TrainSettings
from xdc_core.modalities.modality import Modality
from xdc_core.training.compiled import compiled
from xdc_core.training.heads import EncoderWithHeads
from xdc_core.training.onednn import avoid_small_strided_convolutions
from xdc_core.training.optimiser import make_optimizer
from xdc_core.training.process_rank import Place
from xdc_core.training.synced_batch_norm import sync_batch_norms


@dataclass(frozen=True)
class Learner:
    """`model` is what is stored. `forward` is the same, wrapped for several processes or compiled, as the settings
    ask: what is stored has the same names and the same layout with and without. `weights`: of each head in the loss.
    """

    model: EncoderWithHeads
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    settings: TrainSettings
    weights: Mapping[str, float]
    memory_format: torch.memory_format

    def step(self, views: Tensor, wanted: Mapping[str, Tensor], rate: float) -> dict[str, Tensor]:
        """Learn from one batch: normalised views, and int64 [B] cluster numbers by label source.

        Returns what was measured before the update, as scalars on the device, for this process's share of the batch:
        loss, accuracy_<source>, and gradient_norm (over all processes, before clipping) where gradients are clipped.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        half = self.settings.precision == "bfloat16"
        with torch.autocast(views.device.type, torch.bfloat16, enabled=half):
            logits = self.forward(views.contiguous(memory_format=self.memory_format))
        losses = [self.weights[source] * cross_entropy(logits[source].float(), wanted[source]) for source in wanted]
        loss = torch.stack(losses).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        measured = {"loss": loss.detach()}
        if self.settings.clip_gradient:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_gradient)
            measured["gradient_norm"] = norm
        self.optimizer.step()
        for source in wanted:
            measured[f"accuracy_{source}"] = (logits[source].argmax(1) == wanted[source]).float().mean()
        return measured

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def make_learner(
    model: EncoderWithHeads, modality: Modality, settings: TrainSettings, device: torch.device, place: Place
) -> Learner:
    """Put a model (on the CPU) to work on a device, beside those of the other processes.

    Raises:
        ConfigError: `compile` is asked for, and there is no compiler.
    """
    memory_format = modality.channels_last if settings.channels_last else torch.contiguous_format
    if place.ranks > 1 and settings.sync_batch_norm:
        sync_batch_norms(model)
    if device.type == "cpu" and (settings.channels_last or settings.compile):
        avoid_small_strided_convolutions(model)
    model.to(device)
    if settings.channels_last:
        model.to(memory_format=memory_format)  # type: ignore[call-overload]
    model.train()
    forward: nn.Module = DistributedDataParallel(model) if place.ranks > 1 else model
    if settings.compile:
        forward = compiled(forward, device)
    weights = head_weights(tuple(model.heads), modality.name, settings.own_head_weight)
    return Learner(model, forward, make_optimizer(model, settings), settings, weights, memory_format)


def head_weights(sources: tuple[str, ...], modality: str, own: float) -> dict[str, float]:
    """Return the weight of each head in the loss: `own` for a modality's own clusters beside those of others (MDC), and
    for the others together 1, in equal shares: the mean of their losses. A head that is alone has 1.

    Unverified options: the paper does not tell MDC's weights, and has two modalities.
    """
    others = [source for source in sources if source != modality]
    return {source: 1 / len(others) if source in others else own if others else 1.0 for source in sources}
