"""Settings of evaluations: on which data, by which protocol, and when."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from shards.section import NotHashed, Positive, Section, Since
from xdc_core.config.protocols import ProtocolName
from xdc_core.config.section import LayoutName
from xdc_core.modalities.registry import ModalityName

CORPUS = "corpus"
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class DatasetSettings(Section):
    """A labelled data set to evaluate on, other than the run's own corpus. Its clips are stored like a corpus's."""

    layout: LayoutName = Field(description="how its files lie; see docs/evaluation.md")
    root: str = Field(description="where its files lie; relative to this file")
    modality: ModalityName = Field(description="what is looked at; files need nothing else")
    clip_seconds: Positive = Field(10.0, description="longer recordings are stored in clips of this length")
    views: int = Field(10, ge=1, description="views of a recording, equally spaced; what is said of them is averaged")
    frames: int | None = Field(
        None, ge=1, description="frames a view (of sound: that many frames' time); null: as in training"
    )


class FinetuneSettings(Section):
    """How the protocol `all` trains: the recipe of GDT and SeLaVi, the paper's followers (its own is unknown)."""

    optimizer: Literal["sgd", "adam"] = Field("sgd", description="sgd has momentum 0.9; adam is AVID's choice")
    head_lr: Positive = Field(2.5e-3, description="peak learning rate of the head")
    body_lr: Positive = Field(2.5e-4, description="peak learning rate of the encoder")
    batch: int = Field(32, ge=2, description="clips a step")
    epochs: int = Field(12, ge=1, description="passes over the recordings, one random view of each a pass")
    warmup: float = Field(2.0, ge=0, description="epochs in which the learning rates rise")
    milestones: tuple[int, ...] = Field((6, 10), description="epochs before which the learning rates fall")
    factor: float = Field(0.05, gt=0, le=1, description="what they are multiplied by then")
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
        description="decoding processes beside every training process. With any, as with several processes, each "
        "random view has a seed of its own: other views than with 0 and 1, whatever the numbers",
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
        """Whether every random view has a seed of its own; else one generator draws all views of an epoch in turn."""
        return self.workers > 0 or self.processes > 1


class EvaluationSettings(Section):
    """One evaluation of the encoders that a round begins with (those of round 0 are untrained)."""

    data: str = Field(CORPUS, description="corpus (the run's own), or the name of one of datasets")
    protocol: ProtocolName = Field(
        description="fc: linear softmax head on frozen features; all: fine-tuning; svm: linear SVM on frozen features; "
        "knn: nearest neighbours; retrieval: a clip by another of its modalities; clusters: the run's clustering "
        "against labels; or the probe of an installed package"
    )
    modality: ModalityName | None = Field(
        None, description="whose encoder; null: that of the data set (retrieval has all)"
    )
    when: Annotated[Literal["rounds", "end", "asked"], NotHashed()] = Field(
        "asked", description="part of every round, of the last look, or of none (then: xdc eval)"
    )
    label: str = Field("label", description="label column, for data: corpus")
    learn: tuple[str, ...] = Field(("train",), min_length=1, description="its splits to learn from, for data: corpus")
    test: tuple[str, ...] = Field(
        ("test",),
        min_length=1,
        description="its splits to test on, for data: corpus; the last one's figures stand for it",
    )
    splits: tuple[str, ...] | None = Field(None, description="official splits or folds of a data set; null: all")
    held_out: float = Field(
        0.2, gt=0, lt=1, description="share of the training recordings on which C, k or the epoch is chosen"
    )
    seeds: int = Field(1, ge=1, description="repetitions with other random draws")
    k: int | None = Field(None, ge=2, description="number of clusters; null: as many as classes")
    finetune: FinetuneSettings = Field(FinetuneSettings(), description="for the protocol all")

    @model_validator(mode="after")
    def _fits(self) -> "EvaluationSettings":
        if self.data == CORPUS and self.modality is None and self.protocol != "retrieval":
            raise ValueError(
                "modality must be set where data is corpus: video or audio, or another that the run learns"
            )
        if self.protocol == "retrieval" and (self.data != CORPUS or self.modality is not None):
            raise ValueError("retrieval needs every modality of a clip: data must be corpus, and modality null")
        return self
