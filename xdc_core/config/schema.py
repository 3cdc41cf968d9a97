"""The configuration of a run: one YAML file, with a description of every key."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, WrapValidator, model_validator

from shards.errors import ConfigError
from shards.section import NotHashed, Positive, Section, Since, hashed_settings
from shards.settings import CorpusSettings
from xdc_core.clustering.clusterer import Clusterer
from xdc_core.clustering.registry import CLUSTERERS, KMEANS, KmeansSettings
from xdc_core.config.evaluation import CORPUS, DatasetSettings, EvaluationSettings, Name
from xdc_core.config.methods import JOINT, MethodName, clustered_sources, heads
from xdc_core.config.section import known_layout
from xdc_core.config.selection import SelectSettings
from xdc_core.config.stopping import StopSettings
from xdc_core.modalities.audio import AUDIO, AudioSettings
from xdc_core.modalities.registry import BUILT_IN, MODALITIES, ModalityName, in_order
from xdc_core.modalities.video import VIDEO, VideoSettings

Share = Annotated[float, Field(gt=0, lt=1)]


def known_label_sources() -> tuple[str, ...]:
    """Return the label sources that are clusters: every known modality, and "joint"."""
    return (*MODALITIES, JOINT)


def _known_label_source(name: str) -> str:
    if name not in (*BUILT_IN, JOINT) and name not in known_label_sources():
        raise ValueError(f"{name!r} is not a label source")
    return name


LabelSource = Annotated[str, AfterValidator(_known_label_source)]

_Number = Annotated[int, Field(ge=2)]
_NUMBER = TypeAdapter(_Number)
_BY_ROUND = TypeAdapter(Annotated[tuple[_Number, ...], Field(min_length=1)])


def _number_or_by_round(value: Any, handler: Any) -> Any:
    """Check a number or a list of numbers. The errors of a union would name both."""
    return (_BY_ROUND if isinstance(value, list | tuple) else _NUMBER).validate_python(value)


# The number of a label source's clusters; several numbers are those of the first rounds, the last for all later ones.
ClusterCount = Annotated[int | tuple[int, ...], WrapValidator(_number_or_by_round)]


class ExtractSettings(Section):
    """The computation of features. For a given encoder only `precision` and (by rounding) `channels_last` matter."""

    batch: int = Field(32, ge=1, description="clips per forward pass (and per calibration batch)")
    workers: Annotated[int, NotHashed()] = Field(0, ge=0, description="additional decoding processes")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16 is for GPUs")
    channels_last: Annotated[bool, Since("0.2.0")] = Field(
        False,
        description="memory layout with the fastest convolutions on GPUs; a third less time with r2plus1d_18 on CPUs",
    )
    calibration_batches: int = Field(
        20,
        ge=0,
        description="batches to set a random first encoder's batch-norm statistics; 0: leave them at 0 and 1",
    )
    views: Annotated[int, Since("0.2.0")] = Field(
        1,
        ge=1,
        description="equally spaced views per clip, whose features are averaged; 1: the centre of the clip. Unverified",
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
        {}, description="settings of another algorithm than kmeans; {}: defaults"
    )

    k: dict[LabelSource, ClusterCount] = Field(
        {"video": 64, "audio": 128, "joint": 128},
        description="number of clusters by label source; a list: by round, the last number for all later rounds",
    )
    pca: int | None = Field(256, ge=1, description="principal components kept; null: no PCA. Unverified for XDC")
    clips_per_component: Annotated[int | None, Since("0.2.0")] = Field(
        None, ge=1, description="at most one component per so many clips, but eight in any case; null: as pca says"
    )
    whiten: bool = Field(True, description="scale the components to unit variance (needs pca). Unverified for XDC")
    centre: Annotated[bool, Since("0.2.0")] = Field(
        False, description="subtract the mean of the features also without pca, which always does"
    )
    l2: bool = Field(True, description="scale every vector to length 1 before k-means. Unverified for XDC")
    joint_l2: bool = Field(
        True, description="scale every modality to length 1 before concatenation. Unverified for XDC"
    )
    joint: Annotated[Literal["concat", "canonical"], Since("0.2.0")] = Field(
        "concat",
        description="cdc: features side by side; canonical: only axes that the modalities share, see docs/method.md",
    )
    iterations: int = Field(20, ge=1, description="iterations of kmeans (20 in DeepCluster)")
    sample_mb: Positive = Field(
        4096.0, description="k-means trains on all clips if their features fit, else on a random sample of this size"
    )
    iterations_over_all: Annotated[int, Since("0.2.0")] = Field(
        0, ge=0, le=9999, description="further iterations of kmeans over all clips, after those over the sample"
    )
    heads: Annotated[int, Since("0.2.0")] = Field(
        1,
        ge=1,
        description="clusterings per label source with different seeds; an encoder has a head for each and learns the "
        "mean of their losses (3 in DeepCluster-v2, 10 in SeLaVi). Unverified for XDC",
    )

    @model_validator(mode="after")
    def _whitening(self) -> "ClusterSettings":
        if self.whiten and self.pca is None:
            raise ValueError("whiten is true but pca is null: set pca to a number of components, or whiten to false")
        return self

    @model_validator(mode="after")
    def _settings_of_the_algorithm(self) -> "ClusterSettings":
        if self.algorithm != KMEANS.name:
            if self.iterations_over_all:
                raise ValueError(f"iterations_over_all is for kmeans, and algorithm is {self.algorithm}: set it to 0")
            try:
                algorithm_of(self)
            except ValidationError as error:
                wrong = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
                raise ValueError(f"algorithm_settings of {self.algorithm}: {'; '.join(wrong)}") from None
        elif self.algorithm_settings:
            raise ValueError("kmeans takes its settings from this section: leave algorithm_settings empty")
        return self


# Without effect on the clusters of one modality.
JOINT_SETTINGS = {"joint_l2", "joint"}


def k_in_round(settings: ClusterSettings, source: str, number: int) -> int | None:
    """Return the number of clusters of a label source in a round; None if the configuration has none for it."""
    k = settings.k.get(source)
    return k[min(number, len(k) - 1)] if isinstance(k, tuple) else k


def algorithm_of(settings: ClusterSettings) -> tuple[Clusterer, Section]:
    """Return the algorithm of a clustering, and its own settings with their defaults.

    Raises:
        ConfigError: the package that gives the algorithm cannot be loaded.
        ValidationError: the algorithm has no such setting, or not such a value.
    """
    clusterer = CLUSTERERS.find(settings.algorithm)
    if clusterer.name != settings.algorithm:  # Its labels are found by the name in kmeans.json.
        raise ConfigError(
            f"the clustering algorithm {settings.algorithm!r} calls itself {clusterer.name!r}. Give its entry point "
            "the same name."
        )
    if clusterer is KMEANS:
        return clusterer, KmeansSettings(iterations=settings.iterations)
    return clusterer, clusterer.settings.model_validate(settings.algorithm_settings)


def clustering_settings(settings: ClusterSettings) -> dict[str, Any]:
    """Return the settings of clustering that enter fingerprints, except `k` and those of `joint_settings`."""
    clusterer, own = algorithm_of(settings)
    if clusterer is KMEANS:
        return hashed_settings(settings, {"k", *JOINT_SETTINGS})
    common = hashed_settings(settings, {"k", *JOINT_SETTINGS, "iterations"})
    return common | {"algorithm_version": clusterer.version, "algorithm_settings": hashed_settings(own)}


def joint_settings(settings: ClusterSettings) -> dict[str, Any]:
    """Return the settings that enter fingerprints of the clusters of all modalities' features together."""
    return hashed_settings(settings, ClusterSettings.model_fields.keys() - JOINT_SETTINGS)


class LabelSettings(Section):
    """The assignment of clips to clusters. Other settings than `assign` are for `balanced`."""

    assign: Literal["nearest", "balanced"] = Field(
        "nearest",
        description="nearest: the cluster of the nearest centroid; balanced: clusters of about equal size, by optimal "
        "transport (SeLaVi, SwAV; needs kmeans). Unverified for XDC",
    )
    iterations: int = Field(
        50, ge=1, le=9999, description="iterations of Sinkhorn and Knopp; each reads all features once"
    )
    temperature: Positive = Field(
        0.05,
        description="weight of the transport's entropy, as a share of the mean squared distance between two clips: "
        "smaller is closer to equal sizes and needs more iterations (SwAV: 0.05, of vectors of length 1)",
    )


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


class ReportSettings(Section):
    """The contents of a round's page in addition to numbers."""

    examples: int = Field(6, ge=0, description="example clips per cluster, nearest to the centroid; 0: none")
    most_examples: int = Field(
        1000,
        ge=1,
        description="limit of examples per label source; with many clusters each gets fewer, but at least one",
    )
    shared: Annotated[bool, Since("0.2.0")] = Field(
        False,
        description="measure what each modality's clusters share with the other's features, and what features keep of "
        "the first clusters; see docs/method.md",
    )
    track: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], NotHashed()] = Field(
        ("tensorboard",), description="trackers that receive metrics after every training and report; []: none"
    )


class RunsOn(Section):
    """The resources of a run. They do not change the results, except by rounding."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda if available")
    parallel: bool = Field(True, description="process the modalities in parallel")
    threads: int | None = Field(
        None, ge=1, description="CPU threads of a stage, or of each of its workers; null: its share of the cores"
    )
    executor: str = Field(
        "local", description="what does the work per shard: local (this machine), slurm, ray; see docs/scale.md"
    )
    executor_settings: dict[str, Any] = Field({}, description="settings of the executor; {}: defaults")
    nodes: int = Field(1, ge=1, description="machines per training; train.processes counts the processes of all")
    rendezvous: str | None = Field(
        None,
        pattern=r"^[^\s:]+(:\d{1,5})?$",
        description="with several nodes: name or address of the machine that runs the train stage, for the others, and "
        "a port if it must be a certain one; null: its host name",
    )
    ranks_timeout: Positive | None = Field(
        None,
        description="seconds that the machines and processes of a training wait for one another; null: 600 with "
        "several nodes, with one the limits of torch",
    )
    restarts: int | None = Field(
        None,
        ge=0,
        description="how often a training with several processes goes on by itself after one has died; null: 3 with "
        "several nodes, 0 with one",
    )


def _with_known_layout(corpus: CorpusSettings) -> CorpusSettings:
    if corpus.layout is not None:
        known_layout(corpus.layout)
    return corpus


class Config(Section):
    """The configuration of a run."""

    method: MethodName = Field(
        "xdc",
        description="sdc, mdc, cdc, xdc, supervised, or a method of an installed package; see docs/method.md",
    )
    truth: str = Field(
        "label", description="label column that the baseline `supervised` learns; other methods do not use it"
    )
    modalities: Annotated[tuple[ModalityName, ...], AfterValidator(in_order), Since("0.2.0")] = Field(
        BUILT_IN,
        min_length=1,
        description="modalities to learn, with one encoder each; a modality of an installed package has a section with "
        "its name in this file",
    )
    rounds: int = Field(5, ge=0, le=999, description="training rounds; a last round without training follows")
    last_training: Annotated[Literal["none", "from_first"], Since("0.2.0")] = Field(
        "none",
        description="from_first: round number `rounds` trains, too, but from the first encoders, on its clusters; one "
        "more round without training follows, with the final encoders",
    )
    seed: int = Field(0, ge=0, description="seed of all random draws of the run")
    corpus: Annotated[CorpusSettings, AfterValidator(_with_known_layout)] = Field(
        CorpusSettings(), description="raw videos -> clips"
    )
    video: VideoSettings = Field(VideoSettings(), description=VIDEO.about)
    audio: AudioSettings = Field(AudioSettings(), description=AUDIO.about)
    select: SelectSettings = Field(
        SelectSettings(), description="which clips to learn from, by what was measured of them"
    )
    extract: ExtractSettings = Field(ExtractSettings(), description="clips -> features")
    cluster: ClusterSettings = Field(ClusterSettings(), description="features -> centroids")
    label: LabelSettings = Field(LabelSettings(), description="centroids -> pseudo-labels")
    train: TrainSettings = Field(TrainSettings(), description="pseudo-labels -> better encoders")
    stop: Annotated[StopSettings, Since("0.2.0")] = Field(
        StopSettings(), description="a rule that ends the rounds early, without test labels"
    )
    datasets: dict[Name, DatasetSettings] = Field({}, description="labelled data sets to evaluate on, by name")
    evaluate: dict[Name, EvaluationSettings] = Field(
        {}, description="evaluations of the encoders, by name; see docs/evaluation.md"
    )
    report: ReportSettings = Field(ReportSettings(), description="contents of a round's page")
    runs_on: RunsOn = Field(RunsOn(), description="resources; they do not change the results, except by rounding")

    @model_validator(mode="after")
    def _something_to_learn(self) -> "Config":
        without = [name for name, sources in heads(self.method, self.modalities).items() if not sources]
        if without:
            raise ValueError(
                f"method {self.method} has no label source for {', '.join(without)} if modalities is "
                f"[{', '.join(self.modalities)}]: add a modality, or choose another method"
            )
        return self

    @model_validator(mode="after")
    def _centroids_to_balance(self) -> "Config":
        if self.label.assign == "balanced" and self.cluster.algorithm != KMEANS.name:
            raise ValueError(
                f"label.assign: balanced needs the centroids of kmeans, and cluster.algorithm is "
                f"{self.cluster.algorithm}: set assign to nearest, or choose kmeans"
            )
        return self

    @model_validator(mode="after")
    def _processes_on_nodes(self) -> "Config":
        nodes, several = self.runs_on.nodes, {"train.processes": self.train.processes}
        for name, evaluation in self.evaluate.items():
            if evaluation.finetune.processes > 1:  # A single process fine-tunes in the stage, on its machine.
                several[f"evaluate.{name}.finetune.processes"] = evaluation.finetune.processes
        for name, processes in several.items():
            if processes % nodes:
                raise ValueError(
                    f"{name} ({processes}) is not a multiple of runs_on.nodes ({nodes}): it counts the processes of "
                    "all machines, and every machine gets the same number. Change one of them"
                )
        return self

    @model_validator(mode="after")
    def _data_of_evaluations(self) -> "Config":
        if CORPUS in self.datasets:
            raise ValueError(f"datasets.{CORPUS}: this name is reserved for the run's own corpus; choose another")
        there = ", ".join([CORPUS, *self.datasets])
        for name, evaluation in self.evaluate.items():
            if evaluation.data not in (CORPUS, *self.datasets):
                raise ValueError(f"evaluate.{name}.data is {evaluation.data!r}, but it must be one of: {there}")
            modality = evaluated_modality(self, name)
            if evaluation.modality not in (None, modality):
                raise ValueError(
                    f"evaluate.{name}.modality is {evaluation.modality}, but {evaluation.data} is {modality}"
                )
            frames = self.datasets[evaluation.data].frames if evaluation.data != CORPUS else None
            if modality in self.modalities and frames is not None:
                try:
                    getattr(self, str(modality)).for_frames(frames, self.video.frames)
                except ValueError as error:
                    raise ValueError(f"datasets.{evaluation.data}.frames: {error}") from None
            if modality is None and len(self.modalities) < 2:
                raise ValueError(
                    f"evaluate.{name}: retrieval needs two modalities, but the run has only {self.modalities[0]}"
                )
            if modality is not None and modality not in self.modalities:
                raise ValueError(
                    f"evaluate.{name} is of {modality}, but the run only has encoders of {', '.join(self.modalities)}. "
                    "Add it to modalities, or leave the evaluation out"
                )
        return self

    @model_validator(mode="after")
    def _stopping_rule(self) -> "Config":
        stop = self.stop
        if stop.when == "agreement" and not clustered_sources(self.method, self.modalities):
            raise ValueError(f"stop.when is agreement, but method {self.method} has no clusters: set it to never")
        if stop.when == "validation":
            if stop.split == "test":
                raise ValueError("stop.split is test, but test labels must not decide how long a run trains")
            evaluation = self.evaluate.get(stop.evaluation or "")
            if evaluation is None:
                there = ", ".join(self.evaluate) or "none"
                raise ValueError(f"stop.evaluation is {stop.evaluation!r}, but it must be a name in evaluate: {there}")
            if evaluation.data != CORPUS or evaluation.when != "rounds" or stop.split not in evaluation.test:
                raise ValueError(
                    f"stop.evaluation: {stop.evaluation} must have data: {CORPUS}, when: rounds, and stop.split "
                    f"({stop.split}) in test. It has data: {evaluation.data}, when: {evaluation.when}, "
                    f"test: [{', '.join(evaluation.test)}]"
                )
        return self

    @model_validator(mode="after")
    def _k_for_every_source(self) -> "Config":
        wanted = clustered_sources(self.method, self.modalities)
        missing = [source for source in wanted if source not in self.cluster.k]
        if missing:
            raise ValueError(f"cluster.k has no entry for {', '.join(missing)}, which method {self.method} clusters")
        return self

    @property
    def last_round(self) -> int:
        """Return the number of the last round, the one without training."""
        return self.rounds + (self.last_training != "none")


def evaluated_modality(config: Config, name: str) -> str | None:
    """Return the modality whose encoder is evaluated; None for all."""
    evaluation = config.evaluate[name]
    return config.datasets[evaluation.data].modality if evaluation.data != CORPUS else evaluation.modality


def protects(config: Config) -> bool:
    """Return whether `train.protect` has an effect: it is set, and the encoders learn each other's clusters."""
    learned = heads(config.method, config.modalities)
    others = all(any(source in learned and source != name for source in of) for name, of in learned.items())
    clustered = clustered_sources(config.method, config.modalities)
    return bool(config.train.protect) and others and set(learned) <= set(clustered)
