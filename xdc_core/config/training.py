"""The settings of training."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from shards.section import NotHashed, Positive, Section, Since

Share = Annotated[float, Field(gt=0, lt=1)]


class TrainSettings(Section):
    """The training of one encoder in one round."""

    clips: int = Field(1_000_000, ge=1, description="clips per round, independent of the size of the corpus")
    batch: int = Field(32, ge=1, description="clips per step, over all processes")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd has Nesterov momentum")
    lr: Positive = Field(0.01, description="peak learning rate; for the configured batch unless lr_per is set")
    lr_per: int | None = Field(
        None,
        ge=1,
        description="batch size for which lr is given: the peak is lr * batch / lr_per (32 in VMZ); null: batch",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(1e-4, ge=0, description="applied to the parameters of decay_on")
    decay_on: Literal["all", "weights_and_scales", "weights"] = Field(
        "all",
        description="all parameters; weights_and_scales: not biases (VMZ in Caffe2); weights: nor the scales of norms",
    )
    clip_gradient: Positive | None = Field(
        None, description="largest norm of the gradient over all parameters; null: not limited"
    )
    warmup: float = Field(0.05, ge=0, le=0.5, description="share of the steps in which the learning rate rises")
    schedule: Literal["constant", "cosine", "step"] = Field(
        "step", description="learning rate after the warm-up; step: reduced at milestones"
    )
    milestones: tuple[Share, ...] = Field(
        (1 / 3, 2 / 3), min_length=1, description="for schedule step: shares of the steps after the warm-up, increasing"
    )
    gamma: Positive = Field(0.1, le=1, description="for schedule step: factor at each milestone")
    uniform: bool = Field(True, description="draw clips uniformly over clusters; false: uniformly over clips")
    shuffle_labels: bool = Field(
        False, description="control: permute the pseudo-labels among the clips, so that they carry no information"
    )
    head_std: Positive = Field(0.01, description="standard deviation of a new head's weights")
    own_head_weight: Positive = Field(
        1.0,
        description="mdc: loss weight of the head for a modality's own clusters; the others have 1. Unverified",
    )
    protect: Annotated[float, Since("0.2.0")] = Field(
        0.0,
        ge=0,
        le=1,
        description="xdc, mdc: in a round an encoder does not learn another modality's clusters, but its own, if these "
        "share less than this share of what its own clusters share with the other modality; 0: off. Without effect on "
        "other methods. Ours, see docs/method.md",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of forward and backward passes; bfloat16 is for GPUs. Weights stay float32"
    )
    channels_last: bool = Field(False, description="memory layout with the fastest convolutions; for GPUs")
    compile: bool = Field(
        False, description="compile the encoder with torch.compile; takes minutes at the start of a round, for GPUs"
    )
    checkpoint_every: Annotated[int, NotHashed()] = Field(500, ge=1, description="steps")
    log_every: Annotated[int, NotHashed()] = Field(10, ge=1, description="steps between two lines of metrics.jsonl")
    processes: int = Field(1, ge=1, description="processes (GPUs) per modality, started by torchrun")
    sync_batch_norm: bool = Field(
        False, description="batch norm over the batch of all processes; false: of each process (VMZ in Caffe2)"
    )
    workers: Annotated[int, NotHashed()] = Field(0, ge=0, description="decoding processes per training process")

    @model_validator(mode="after")
    def _milestones_rise(self) -> "TrainSettings":
        if any(after <= before for before, after in pairwise(self.milestones)):
            raise ValueError(f"milestones ({', '.join(f'{share:g}' for share in self.milestones)}) must rise")
        return self
