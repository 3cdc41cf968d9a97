"""The configuration of a run: one YAML file, every key of it described here."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from shards.errors import ConfigError
from shards.section import NotHashed, Positive, Section, Since, hashed_settings
from shards.settings import CorpusSettings
from xdc_core.clustering.clusterer import Clusterer
from xdc_core.clustering.registry import CLUSTERERS, KMEANS, KmeansSettings
from xdc_core.config.evaluation import CORPUS, DatasetSettings, EvaluationSettings, Name
from xdc_core.config.methods import JOINT, MethodName, clustered_sources, heads
from xdc_core.config.section import known_layout
from xdc_core.modalities.audio import AUDIO, AudioSettings
from xdc_core.modalities.registry import BUILT_IN, MODALITIES, ModalityName, in_order
from xdc_core.modalities.video import VIDEO, VideoSettings

Share = Annotated[float, Field(gt=0, lt=1)]


def known_label_sources() -> tuple[str, ...]:
    """Return the label sources that are clusters: every modality that is known, and "joint"."""
    return (*MODALITIES, JOINT)


def _known_label_source(name: str) -> str:
    if name not in (*BUILT_IN, JOINT) and name not in known_label_sources():
        raise ValueError(f"{name!r} is no label source")
    return name


LabelSource = Annotated[str, AfterValidator(_known_label_source)]


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


def _known_algorithm(name: str) -> str:
    try:
        CLUSTERERS.check(name)
    except ConfigError as error:
        raise ValueError(str(error).removesuffix(".")) from None
    return name


class ClusterSettings(Section):
    """Clusters of a modality's features (or of all modalities' together, for the label source `joint`)."""

    algorithm: Annotated[str, AfterValidator(_known_algorithm), Since("0.2.0")] = Field(
        KMEANS.name, description="kmeans, or the clustering algorithm of an installed package"
    )
    algorithm_settings: Annotated[dict[str, Any], Since("0.2.0")] = Field(
        {}, description="its own settings, where it is not kmeans; {}: their defaults"
    )

    k: dict[LabelSource, Annotated[int, Field(ge=2)]] = Field(
        {"video": 64, "audio": 128, "joint": 128}, description="number of clusters by label source"
    )
    pca: int | None = Field(256, ge=1, description="principal components kept; null: no PCA. Unverified for XDC")
    whiten: bool = Field(True, description="scale the components to unit variance (needs pca). Unverified for XDC")
    l2: bool = Field(True, description="scale every vector to length 1 before k-means. Unverified for XDC")
    joint_l2: bool = Field(
        True, description="scale every modality to length 1 before they are put together. Unverified for XDC"
    )
    iterations: int = Field(20, ge=1, description="iterations of kmeans (20 in DeepCluster)")
    sample_mb: Positive = Field(
        4096.0, description="k-means trains on all clips if their features fit, else on a random sample of this size"
    )

    @model_validator(mode="after")
    def _whitening(self) -> "ClusterSettings":
        if self.whiten and self.pca is None:
            raise ValueError("whiten is true but pca is null: set pca to a number of components, or whiten to false")
        return self

    @model_validator(mode="after")
    def _settings_of_the_algorithm(self) -> "ClusterSettings":
        if self.algorithm != KMEANS.name:
            try:
                algorithm_of(self)
            except ValidationError as error:
                wrong = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
                raise ValueError(f"algorithm_settings of {self.algorithm}: {'; '.join(wrong)}") from None
        elif self.algorithm_settings:
            raise ValueError("kmeans takes its settings from this section: leave algorithm_settings empty")
        return self


def algorithm_of(settings: ClusterSettings) -> tuple[Clusterer, Section]:
    """Return the algorithm of a clustering, and its own settings with their defaults.

    Raises:
        ConfigError: the package that gives the algorithm cannot be loaded.
        ValidationError: the algorithm has no such setting, or not such a value.
    """
    clusterer = CLUSTERERS.find(settings.algorithm)
    if clusterer is KMEANS:
        return clusterer, KmeansSettings(iterations=settings.iterations)
    return clusterer, clusterer.settings.model_validate(settings.algorithm_settings)


def clustering_settings(settings: ClusterSettings) -> dict[str, Any]:
    """Return what decides how features are clustered, but for `k` and `joint_l2`: it enters fingerprints."""
    clusterer, own = algorithm_of(settings)
    if clusterer is KMEANS:
        return hashed_settings(settings, {"k", "joint_l2"})
    common = hashed_settings(settings, {"k", "joint_l2", "iterations"})
    return common | {"algorithm_version": clusterer.version, "algorithm_settings": hashed_settings(own)}


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
        description="mdc: weight in the loss of the head for a modality's own clusters; the others have 1. Unverified",
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

    method: MethodName = Field(
        "xdc",
        description="who supervises whom: sdc, mdc, cdc, xdc, supervised, or a method of an installed package; see "
        "docs/method.md",
    )
    truth: str = Field("label", description="label column that the baseline `supervised` learns; others never see it")
    modalities: Annotated[tuple[ModalityName, ...], AfterValidator(in_order), Since("0.2.0")] = Field(
        BUILT_IN,
        min_length=1,
        description="what is learnt of the clips, an encoder each; a modality of an installed package has a section of "
        "its name in this file",
    )
    rounds: int = Field(5, ge=0, le=999, description="training rounds; a last look without training follows them")
    seed: int = Field(0, ge=0, description="every random draw of the run comes from it")
    corpus: Annotated[CorpusSettings, AfterValidator(_with_known_layout)] = Field(
        CorpusSettings(), description="raw videos -> clips"
    )
    video: VideoSettings = Field(VideoSettings(), description=VIDEO.about)
    audio: AudioSettings = Field(AudioSettings(), description=AUDIO.about)
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
    def _something_to_learn(self) -> "Config":
        without = [name for name, sources in heads(self.method, self.modalities).items() if not sources]
        if without:
            raise ValueError(
                f"method {self.method} has nothing for {', '.join(without)} to learn from where modalities is "
                f"[{', '.join(self.modalities)}]: name another modality, or choose another method"
            )
        return self

    @model_validator(mode="after")
    def _data_of_evaluations(self) -> "Config":
        if CORPUS in self.datasets:
            raise ValueError(f"datasets.{CORPUS}: this name means the run's own corpus; choose another")
        there = ", ".join([CORPUS, *self.datasets])
        for name, evaluation in self.evaluate.items():
            if evaluation.data not in (CORPUS, *self.datasets):
                raise ValueError(f"evaluate.{name}.data is {evaluation.data!r}, which is none of: {there}")
            modality = evaluated_modality(self, name)
            if evaluation.modality not in (None, modality):
                raise ValueError(
                    f"evaluate.{name}.modality is {evaluation.modality}, but {evaluation.data} is {modality}"
                )
            if modality is None and len(self.modalities) < 2:
                raise ValueError(
                    f"evaluate.{name}: retrieval needs two modalities, but the run has {self.modalities[0]} alone"
                )
            if modality is not None and modality not in self.modalities:
                raise ValueError(
                    f"evaluate.{name} is of {modality}, but the run has encoders of {', '.join(self.modalities)} only. "
                    "Add it to modalities, or leave the evaluation out"
                )
        return self

    @model_validator(mode="after")
    def _k_for_every_source(self) -> "Config":
        wanted = clustered_sources(self.method, self.modalities)
        missing = [source for source in wanted if source not in self.cluster.k]
        if missing:
            raise ValueError(f"cluster.k has no entry for {', '.join(missing)}, which method {self.method} clusters")
        return self


def evaluated_modality(config: Config, name: str) -> str | None:
    """Return whose encoder an evaluation is of; None for all."""
    evaluation = config.evaluate[name]
    return config.datasets[evaluation.data].modality if evaluation.data != CORPUS else evaluation.modality
