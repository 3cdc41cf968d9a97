"""A model while it is being trained, and one step of that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from xdc_core.config.schema import TrainSettings
from xdc_core.modalities.modality import Modality
from xdc_core.training.compiled import compiled
from xdc_core.training.onednn import avoid_small_strided_convolutions
from xdc_core.training.process_rank import ProcessRank
from xdc_core.training.synced_batch_norm import sync_batch_norms


@dataclass(frozen=True)
class StepSettings:
    """How a step is computed, whatever is learnt; the fields are those of the same names in the configuration."""

    precision: str
    channels_last: bool
    compile: bool = False
    sync_batch_norm: bool = False
    clip_gradient: float | None = None


def step_settings(settings: TrainSettings) -> StepSettings:
    """Return the part of a training round's settings that concerns single steps."""
    names = (field.name for field in fields(StepSettings))
    return StepSettings(**{name: getattr(settings, name) for name in names})


@dataclass(frozen=True)
class Learner:
    """`model` is what is stored: views -> logits [B, classes] by target. `forward` is the same, wrapped for several
    processes or compiled, as the settings ask: what is stored has the same names and the same layout with and without.
    `weights`: of each target in the loss.
    """

    model: nn.Module
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    settings: StepSettings
    weights: Mapping[str, float]
    memory_format: torch.memory_format

    def step(self, views: Tensor, wanted: Mapping[str, Tensor], rate: float) -> dict[str, Tensor]:
        """Learn from one batch: normalised views, and int64 [B] class numbers by target (clusters by label source).

        rate: the learning rate; of parameter groups that have a `peak`, its factor.

        Returns what was measured before the update, as scalars on the device, for this process's share of the batch:
        loss, accuracy_<target>, and gradient_norm (over all processes, before clipping) where gradients are clipped.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("peak", 1.0) * rate
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

    def predict(self, views: Tensor) -> dict[str, Tensor]:
        """Return logits float32 [B, classes] by target for normalised views, in the mode that the model is in."""
        half = self.settings.precision == "bfloat16"
        with torch.autocast(views.device.type, torch.bfloat16, enabled=half):
            logits = self.model(views.contiguous(memory_format=self.memory_format))
        return {target: values.float() for target, values in logits.items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def make_learner(
    model: nn.Module,
    modality: Modality,
    settings: StepSettings,
    device: torch.device,
    process: ProcessRank,
    weights: Mapping[str, float],
    optimizer_of: Callable[[nn.Module], torch.optim.Optimizer],
) -> Learner:
    """Put a model (on the CPU) to work on a device, beside those of the other processes.

    optimizer_of: makes the optimiser of the model, once that lies on the device.

    Raises:
        ConfigError: `compile` is asked for, and there is no compiler.
    """
    memory_format = modality.channels_last if settings.channels_last else torch.contiguous_format
    if process.world_size > 1 and settings.sync_batch_norm:
        sync_batch_norms(model)
    if device.type == "cpu" and (settings.channels_last or settings.compile):
        avoid_small_strided_convolutions(model)
    model.to(device)
    if settings.channels_last:
        model.to(memory_format=memory_format)  # type: ignore[call-overload]
    model.train()
    forward: nn.Module = DistributedDataParallel(model) if process.world_size > 1 else model
    if settings.compile:
        forward = compiled(forward, device)
    return Learner(model, forward, optimizer_of(model), settings, weights, memory_format)


def head_weights(sources: tuple[str, ...], modality: str, own: float) -> dict[str, float]:
    """Return the weight of each head in the loss: `own` for a modality's own clusters beside those of others (MDC), and
    for the others together 1, in equal shares: the mean of their losses. A head that is alone has 1.

    Unverified options: the paper does not tell MDC's weights, and has two modalities.
    """
    others = [source for source in sources if source != modality]
    return {source: 1 / len(others) if source in others else own if others else 1.0 for source in sources}
