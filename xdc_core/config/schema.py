"""The configuration of a run: one YAML file, every key of it described here."""

import typing
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from shards.section import NotHashed, Since
from shards.settings import CorpusSettings
from xdc_core.config.evaluation import CORPUS, DatasetSettings, EvaluationSettings, Name
from xdc_core.config.methods import clustered_sources
from xdc_core.config.section import Positive, Section, known_layout

Share = Annotated[float, Field(gt=0, lt=1)]
LabelSource = Literal["video", "audio", "joint"]
LABEL_SOURCES: tuple[str, ...] = typing.get_args(LabelSource)


def _named_like_weights(path: str) -> str:
    if Path(path).suffix not in (".safetensors", ".pth", ".pt"):
        raise ValueError(
            f"{path!r} is no file of weights. Allowed: .safetensors as xdc writes it, or .pth or .pt with a state dict"
        )
    return path


WeightsPath = Annotated[str, AfterValidator(_named_like_weights)]
WEIGHTS_NOTE = (
    "start from these weights instead of random ones: a .safetensors of xdc, or a .pth or .pt with a state dict; "
    "relative to this file. null: random"
)


class VideoSettings(Section):
    """How a stored clip becomes the video encoder's input, and which encoder that is."""

    encoder: str = Field(
        "r2plus1d_18",
        description="r2plus1d_18 (the paper's), torchvision_r2plus1d_18 (with torchvision's middle planes) or "
        "r2plus1d_tiny (for CPUs)",
    )
    weights: WeightsPath | None = Field(None, description=WEIGHTS_NOTE)
    frames: int = Field(8, ge=1, description="consecutive frames a view")
    short_edges: tuple[int, ...] = Field(
        (128, 160), min_length=1, description="pixels; training draws one, extraction takes the first"
    )
    crop: int = Field(112, ge=16, description="pixels of the square that the encoder sees")
    flip: bool = Field(True, description="mirror half of the training views")
    mean: tuple[float, float, float] = Field((0.43216, 0.394666, 0.37645), description="RGB in [0, 1]")
    std: tuple[Positive, Positive, Positive] = Field((0.22803, 0.22145, 0.216989), description="RGB in [0, 1]")

    @model_validator(mode="after")
    def _crop_fits(self) -> "VideoSettings":
        if min(self.short_edges) < self.crop:
            raise ValueError(f"crop ({self.crop}) is larger than the smallest of short_edges ({min(self.short_edges)})")
        return self


class AudioSettings(Section):
    """How a stored clip's sound becomes the audio encoder's input, and which encoder that is."""

    encoder: str = Field("audio_resnet_18", description="audio_resnet_18 (the paper's) or audio_resnet_tiny")
    weights: WeightsPath | None = Field(None, description=WEIGHTS_NOTE)
    frames: int = Field(100, ge=8, description="log-mel frames of 10 ms a view")
    mels: int = Field(40, ge=8, le=80, description="mel filters")
    align: Literal["span", "start", "centre"] = Field(
        "span",
        description="which sound goes with a video view: span (the view's own span, resampled onto the frames), "
        "start (frames from its start on) or centre (frames around its middle). Unverified for XDC",
    )
    mask_frames: int = Field(
        0, ge=0, description="longest stretch of frames that a training view loses to silence (SpecAugment). Unverified"
    )
    mask_mels: int = Field(
        0, ge=0, description="most neighbouring mel bands that a training view loses to silence. Unverified"
    )

    @model_validator(mode="after")
    def _masks_leave_something(self) -> "AudioSettings":
        for mask, whole in (("mask_frames", "frames"), ("mask_mels", "mels")):
            if getattr(self, mask) >= getattr(self, whole):
                raise ValueError(
                    f"{mask} ({getattr(self, mask)}) must be less than {whole} ({getattr(self, whole)}): "
                    "some views would be nothing but silence"
                )
        return self


class ExtractSettings(Section):
    """How features are computed. Of a given encoder only `precision` and, by rounding, `channels_last` change them."""

    batch: int = Field(32, ge=1, description="clips a forward pass (and a calibration batch)")
    workers: Annotated[int, NotHashed()] = Field(
        0, ge=0, description="decoding processes beside the one with the encoder"
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16 is for GPUs")
    channels_last: Annotated[bool, Since("0.2.0")] = Field(
        False, description="the memory layout that GPUs convolve fastest; a third less time with r2plus1d_18 on CPUs"
    )
    calibration_batches: int = Field(
        20,
        ge=0,
        description="batches that set a random first encoder's batch-norm statistics; 0 leaves them at 0 and 1",
    )


class ClusterSettings(Section):
    """k-means over a modality's features (or all, for the label source `joint`)."""

    k: dict[LabelSource, Annotated[int, Field(ge=2)]] = Field(
        {"video": 64, "audio": 128, "joint": 128}, description="number of clusters by label source"
    )
    pca: int | None = Field(256, ge=1, description="principal components kept; null: no PCA. Unverified for XDC")
    whiten: bool = Field(True, description="scale the components to unit variance (needs pca). Unverified for XDC")
    l2: bool = Field(True, description="scale every vector to length 1 before k-means. Unverified for XDC")
    joint_l2: bool = Field(
        True, description="scale every modality to length 1 before they are put together. Unverified for XDC"
    )
    iterations: int = Field(20, ge=1, description="k-means iterations (20 in DeepCluster)")
    sample_mb: Positive = Field(
        4096.0, description="k-means trains on all clips if their features fit, else on a random sample of this size"
    )

    @model_validator(mode="after")
    def _whitening(self) -> "ClusterSettings":
        if self.whiten and self.pca is None:
            raise ValueError("whiten is true but pca is null: set pca to a number of components, or whiten to false")
        return self


class TrainSettings(Section):
    """A training round of one encoder."""

    clips: int = Field(1_000_000, ge=1, description="clips a round, whatever the size of the corpus")
    batch: int = Field(32, ge=1, description="clips a step, over all processes")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd has Nesterov momentum")
    lr: Positive = Field(0.01, description="peak learning rate, for the batch as given unless lr_per is set")
    lr_per: int | None = Field(
        None, ge=1, description="clips that lr is for: the peak is lr * batch / lr_per (32 in VMZ). null: the batch"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(1e-4, ge=0, description="on what decay_on names")
    decay_on: Literal["all", "weights_and_scales", "weights"] = Field(
        "all",
        description="all parameters; weights_and_scales: not biases (VMZ in Caffe2); weights: nor the scales of norms",
    )
    clip_gradient: Positive | None = Field(
        None, description="scale longer gradients (norm over all parameters) down to this length; null: leave them"
    )
    warmup: float = Field(0.05, ge=0, le=0.5, description="share of the steps in which the learning rate rises")
    schedule: Literal["constant", "cosine", "step"] = Field(
        "step", description="of the learning rate after the warm-up; step: it falls at milestones"
    )
    milestones: tuple[Share, ...] = Field(
        (1 / 3, 2 / 3), min_length=1, description="of schedule step: shares of the steps after the warm-up, rising"
    )
    gamma: Positive = Field(0.1, le=1, description="of schedule step: the factor at each milestone")
    uniform: bool = Field(True, description="draw clips uniformly over clusters; false: uniformly over clips")
    shuffle_labels: bool = Field(
        False, description="a control: permute the pseudo-labels among the clips, so that there is only noise to learn"
    )
    head_std: Positive = Field(0.01, description="standard deviation of a new head's weights")
    own_head_weight: Positive = Field(
        1.0,
        description="mdc: weight in the loss of the head for a modality's own clusters; the other's is 1. Unverified",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the encoder's passes; bfloat16 is for GPUs. Weights stay float32"
    )
    channels_last: bool = Field(False, description="the memory layout that GPUs convolve fastest; for GPUs")
    compile: bool = Field(False, description="torch.compile the encoder; minutes at the start of a round, for GPUs")
    checkpoint_every: Annotated[int, NotHashed()] = Field(500, ge=1, description="steps")
    log_every: Annotated[int, NotHashed()] = Field(10, ge=1, description="steps between two lines of metrics.jsonl")
    processes: int = Field(1, ge=1, description="processes (GPUs) a modality, joined by torchrun")
    sync_batch_norm: bool = Field(
        False, description="batch norm over the batch of all processes; false: over that of each (VMZ in Caffe2)"
    )
    workers: Annotated[int, NotHashed()] = Field(
        0, ge=0, description="decoding processes beside every training process"
    )

    @model_validator(mode="after")
    def _milestones_rise(self) -> "TrainSettings":
        if any(after <= before for before, after in pairwise(self.milestones)):
            raise ValueError(f"milestones ({', '.join(f'{share:g}' for share in self.milestones)}) must rise")
        return self


class ReportSettings(Section):
    """What a round's page shows beside numbers."""

    examples: int = Field(6, ge=0, description="clips of every cluster to look at and listen to, the nearest; 0: none")
    most_examples: int = Field(
        1000, ge=1, description="of a label source, over all clusters: many clusters get fewer each, but one"
    )
    track: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], NotHashed()] = Field(
        ("tensorboard",), description="who gets the curves after every training and report; [] for nobody"
    )


class RunsOn(Section):
    """Where the work is done. Nothing here changes what is computed, but for rounding."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one")
    parallel: bool = Field(True, description="work on the modalities side by side")
    threads: int | None = Field(None, ge=1, description="CPU threads a stage; null: its share of the cores")


def _with_known_layout(corpus: CorpusSettings) -> CorpusSettings:
    if corpus.layout is not None:
        known_layout(corpus.layout)
    return corpus


class Config(Section):
    """Everything that decides what a run computes."""

    method: Literal["sdc", "mdc", "cdc", "xdc", "supervised"] = Field(
        "xdc", description="who supervises whom; see docs/method.md"
    )
    truth: str = Field("label", description="label column that the baseline `supervised` learns; others never see it")
    rounds: int = Field(5, ge=0, le=999, description="training rounds; a last look without training follows them")
    seed: int = Field(0, ge=0, description="every random draw of the run comes from it")
    corpus: Annotated[CorpusSettings, AfterValidator(_with_known_layout)] = Field(
        CorpusSettings(), description="raw videos -> clips"
    )
    video: VideoSettings = Field(VideoSettings(), description="clip -> video encoder")
    audio: AudioSettings = Field(AudioSettings(), description="clip -> audio encoder")
    extract: ExtractSettings = Field(ExtractSettings(), description="clips -> features")
    cluster: ClusterSettings = Field(ClusterSettings(), description="features -> centroids")
    train: TrainSettings = Field(TrainSettings(), description="pseudo-labels -> better encoders")
    datasets: dict[Name, DatasetSettings] = Field({}, description="labelled data sets to evaluate on, by name")
    evaluate: dict[Name, EvaluationSettings] = Field(
        {}, description="evaluations of the encoders, by name; see docs/evaluation.md"
    )
    report: ReportSettings = Field(ReportSettings(), description="what a round's page shows")
    runs_on: RunsOn = Field(RunsOn(), description="where the work is done")

    @model_validator(mode="after")
    def _data_of_evaluations(self) -> "Config":
        if CORPUS in self.datasets:
            raise ValueError(f"datasets.{CORPUS}: this name means the run's own corpus; choose another")
        for name, evaluation in self.evaluate.items():
            if evaluation.data == CORPUS:
                continue
            if evaluation.data not in self.datasets:
                there = ", ".join([CORPUS, *self.datasets])
                raise ValueError(f"evaluate.{name}.data is {evaluation.data!r}, which is none of: {there}")
            modality = self.datasets[evaluation.data].modality
            if evaluation.modality not in (None, modality):
                raise ValueError(
                    f"evaluate.{name}.modality is {evaluation.modality}, but {evaluation.data} is {modality}"
                )
        return self

    @model_validator(mode="after")
    def _k_for_every_source(self) -> "Config":
        missing = [source for source in clustered_sources(self.method) if source not in self.cluster.k]
        if missing:
            raise ValueError(f"cluster.k has no entry for {', '.join(missing)}, which method {self.method} clusters")
        return self


def evaluated_modality(config: Config, name: str) -> str | None:
    """Whose encoder an evaluation is of; None for both."""
    evaluation = config.evaluate[name]
    return config.datasets[evaluation.data].modality if evaluation.data != CORPUS else evaluation.modality
