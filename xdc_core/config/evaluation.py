"""The settings of evaluations: data, protocol, and when they are run."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from shards.errors import ConfigError
from shards.section import NotHashed, Positive, Section, Since
from shards.settings import CropSettings
from xdc_core.config.finetune import FinetuneSettings
from xdc_core.config.protocols import ProtocolName
from xdc_core.modalities.registry import ModalityName

CORPUS = "corpus"
# Settings of data sets in a layout that are not the default, for evaluations added by a command: views per recording,
# where the paper does not use ten; windows.
BY_LAYOUT: dict[str, dict[str, Any]] = {"dcase2014": {"views": 60}, "grid": {"views": 1, "segment_seconds": 0.64}}
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


def known_layout(name: str) -> str:
    """Return the name of a layout of data sets. Raises ValueError if it is unknown; the text suggests a name."""
    from shards.layouts.registry import LAYOUTS  # Reading Parquet manifests needs pyarrow, which is slow to import.

    try:
        LAYOUTS.check(name)
    except ConfigError as error:
        raise ValueError(str(error).removesuffix(".")) from None
    return name


LayoutName = Annotated[str, AfterValidator(known_layout)]


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
    every: Annotated[int, NotHashed()] = Field(
        1, ge=1, description="with when: rounds, only in every so many rounds, and after the last one"
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
        0.2,
        ge=0,
        lt=1,
        description="share of the training recordings that are held out to choose C, k or the epoch; 0: none, and "
        "nothing is chosen (the last epoch, and the middle candidate for C or k)",
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


def evaluated_modality(evaluation: EvaluationSettings, datasets: Mapping[str, DatasetSettings]) -> str | None:
    """Return the modality whose encoder is evaluated; None for all."""
    return datasets[evaluation.data].modality if evaluation.data != CORPUS else evaluation.modality
