"""The settings of evaluations: data, protocol, and when they are run."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from shards.section import NotHashed, Positive, Section, Since
from shards.settings import CropSettings
from xdc_core.config.protocols import ProtocolName
from xdc_core.config.section import LayoutName
from xdc_core.modalities.registry import ModalityName

CORPUS = "corpus"
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class DatasetSettings(Section):
    """A labelled data set to evaluate on, other than the run's own corpus. Its clips are stored like a corpus's."""

    layout: LayoutName = Field(description="layout of its files; see docs/evaluation.md")
    root: str = Field(description="folder of its files; relative to this file")
    modality: ModalityName = Field(description="modality to evaluate; files need no other")
    clip_seconds: Positive = Field(10.0, description="longer recordings are stored in clips of this length")
    segment_seconds: Annotated[Positive | None, Since("0.2.0")] = Field(
        None, description="as corpus.segment_seconds: windows of this length round the parts that the layout names"
    )
    crop: Annotated[CropSettings | None, Since("0.2.0")] = Field(
        None, description="as corpus.crop: the part of the picture that is stored; null: the whole picture"
    )
    views: int = Field(10, ge=1, description="views per recording, equally spaced; their predictions are averaged")
    frames: int | None = Field(
        None, ge=1, description="frames per view (for sound, their duration); null: as in training"
    )


class FinetuneSettings(Section):
    """The training of the protocol `all`: the recipe of GDT and SeLaVi, successors of XDC (whose own is unknown)."""

    optimizer: Literal["sgd", "adam"] = Field("sgd", description="sgd has momentum 0.9; adam is AVID's choice")
    head_lr: Positive = Field(2.5e-3, description="peak learning rate of the head")
    body_lr: Positive = Field(2.5e-4, description="peak learning rate of the encoder")
    batch: int = Field(32, ge=2, description="clips per step")
    epochs: int = Field(12, ge=1, description="passes over the recordings, with one random view per recording")
    warmup: float = Field(2.0, ge=0, description="epochs in which the learning rates rise")
    milestones: tuple[int, ...] = Field((6, 10), description="epochs before which the learning rates are reduced")
    factor: float = Field(0.05, gt=0, le=1, description="factor of each reduction")
    weight_decay: float = Field(5e-3, ge=0, description="on all parameters")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the head")
    precision: Annotated[Literal["float32", "bfloat16"], Since("0.2.0")] = Field(
        "float32", description="of the encoder's passes; bfloat16 is for GPUs. Weights stay float32"
    )
    channels_last: Annotated[bool, Since("0.2.0")] = Field(
        False, description="the memory layout that GPUs convolve fastest; for GPUs"
    )
    processes: Annotated[int, Since("0.2.0")] = Field(
        1, ge=1, description="processes (GPUs) that share every batch, joined by torchrun"
    )
    workers: Annotated[int, NotHashed()] = Field(
        0,
        ge=0,
        description="decoding processes per training process. With any, or with several processes, each random "
        "view has its own seed: the views differ from those with 0 workers and 1 process",
    )

    @model_validator(mode="after")
    def _batch_is_shared_out(self) -> "FinetuneSettings":
        if self.batch % self.processes or self.batch < 2 * self.processes:
            raise ValueError(
                f"batch ({self.batch}) must be a multiple of processes ({self.processes}), and at least twice that: "
                "every process gets the same number of clips, and batch norm needs two"
            )
        return self

    @property
    def seed_per_view(self) -> bool:
        """Return whether every random view has its own seed; else one generator draws all views of an epoch in turn."""
        return self.workers > 0 or self.processes > 1


class EvaluationSettings(Section):
    """One evaluation of the encoders at the start of a round (those of round 0 are untrained)."""

    data: str = Field(CORPUS, description="corpus (the run's own), or a name in datasets")
    protocol: ProtocolName = Field(
        description="fc: linear softmax head on frozen features; all: fine-tuning; svm: linear SVM on frozen features; "
        "knn: nearest neighbours; retrieval: a clip by another of its modalities; clusters: the run's clustering "
        "against labels; or the probe of an installed package"
    )
    modality: ModalityName | None = Field(
        None, description="modality of the encoder; null: that of the data set (retrieval uses all)"
    )
    when: Annotated[Literal["rounds", "end", "asked"], NotHashed()] = Field(
        "asked", description="in every round, after the last one, or only when requested by xdc eval"
    )
    label: str = Field("label", description="label column, for data: corpus")
    learn: tuple[str, ...] = Field(("train",), min_length=1, description="splits to learn from, for data: corpus")
    test: tuple[str, ...] = Field(
        ("test",),
        min_length=1,
        description="splits to test on, for data: corpus; tables show the last one",
    )
    splits: tuple[str, ...] | None = Field(None, description="official splits or folds of a data set; null: all")
    held_out: float = Field(
        0.2, gt=0, lt=1, description="share of the training recordings that are held out to choose C, k or the epoch"
    )
    seeds: int = Field(1, ge=1, description="repetitions with other random draws")
    k: int | None = Field(None, ge=2, description="number of clusters; null: as many as classes")
    finetune: FinetuneSettings = Field(FinetuneSettings(), description="for the protocol all")

    @model_validator(mode="after")
    def _fits(self) -> "EvaluationSettings":
        if self.data == CORPUS and self.modality is None and self.protocol != "retrieval":
            raise ValueError("modality must be set if data is corpus: give one of the modalities of the run")
        if self.protocol == "retrieval" and (self.data != CORPUS or self.modality is not None):
            raise ValueError("retrieval needs every modality of a clip: data must be corpus, and modality null")
        return self
