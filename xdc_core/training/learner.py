"""One training step: forward and backward pass, and the update of a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from xdc_core.config.training import TrainSettings
from xdc_core.modalities.modality import Modality
from xdc_core.training.compiled import compiled
from xdc_core.training.onednn import avoid_small_strided_convolutions
from xdc_core.training.process_rank import ProcessRank
from xdc_core.training.synced_batch_norm import sync_batch_norms


@dataclass(frozen=True)
class StepSettings:
    """The settings of a single step, with the same names as in the configuration."""

    precision: str
    channels_last: bool
    compile: bool = False
    sync_batch_norm: bool = False
    clip_gradient: float | None = None


def step_settings(settings: TrainSettings) -> StepSettings:
    """Return the settings of single steps from the settings of a training round."""
    names = (field.name for field in fields(StepSettings))
    return StepSettings(**{name: getattr(settings, name) for name in names})


@dataclass(frozen=True)
class Learner:
    """A model with its optimiser and the settings of a step.

    model: maps views to logits [B, classes] by target; it is what is stored. forward: the same model, wrapped for
    several processes or compiled if the settings say so; the stored names and layout do not depend on this. weights:
    the weight of each target in the loss.
    """

    model: nn.Module
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    settings: StepSettings
    weights: Mapping[str, float]
    memory_format: torch.memory_format

    def step(self, views: Tensor, targets: Mapping[str, Tensor], rate: float) -> dict[str, Tensor]:
        """Update the model with one batch of normalised views.

        targets: class numbers, int64 [B], by target (in a training round, pseudo-labels by label source). rate: the
        learning rate; a parameter group with a `peak` uses peak * rate.

        Returns scalars on the device, measured before the update on this process's share of the batch: loss,
        accuracy_<target>, and gradient_norm (over all processes, before clipping) if gradients are clipped.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("peak", 1.0) * rate
        half = self.settings.precision == "bfloat16"
        with torch.autocast(views.device.type, torch.bfloat16, enabled=half):
            logits = self.forward(views.contiguous(memory_format=self.memory_format))
        losses = [
            self.weights[name] * cross_entropy(logits[name].float(), classes) for name, classes in targets.items()
        ]
        loss = torch.stack(losses).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        measured = {"loss": loss.detach()}
        if self.settings.clip_gradient:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_gradient)
            measured["gradient_norm"] = norm
        self.optimizer.step()
        for name, classes in targets.items():
            measured[f"accuracy_{name}"] = (logits[name].argmax(1) == classes).float().mean()
        return measured

    def predict(self, views: Tensor) -> dict[str, Tensor]:
        """Return logits float32 [B, classes] by target for normalised views, in the model's current mode."""
        half = self.settings.precision == "bfloat16"
        with torch.autocast(views.device.type, torch.bfloat16, enabled=half):
            logits = self.model(views.contiguous(memory_format=self.memory_format))
        return {target: values.float() for target, values in logits.items()}

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load the state of a checkpoint."""
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
    """Move a model from the CPU to a device, and prepare it for training, alone or with other processes.

    optimizer_of: makes the optimiser of the model, after the model is on the device.

    Raises:
        ConfigError: `compile` is true, and there is no compiler.
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
    """Return the weight of each label source in the loss.

    If an encoder has heads for its own clusters and for others (MDC), its own head has the weight `own`. The other
    heads share a weight of 1 equally: their part of the loss is their mean. A single head has the weight 1.

    Unverified options: the paper does not give MDC's weights, and has two modalities.
    """
    others = [source for source in sources if source != modality]
    return {source: 1 / len(others) if source in others else own if others else 1.0 for source in sources}


def weights_of_heads(weights: Mapping[str, float], heads: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return the weight of each head in the loss, if the heads of a label source share its weight equally.

    weights: by label source. heads: names by label source, one for each of its clusterings. The part of a source in the
    loss is the mean of the losses of its heads, times its weight (DeepCluster-v2 and SeLaVi: the mean over all heads).
    """
    return {name: weights[source] / len(names) for source, names in heads.items() for name in names}
