"""The configuration of a run: one YAML file, with a description of every key."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from shards.objects.cache import Cache
from shards.section import NotHashed, Positive, Section, Since
from shards.settings import CorpusSettings
from xdc_core.clustering.registry import KMEANS
from xdc_core.config.clustering import ClusterSettings, LabelSettings
from xdc_core.config.evaluation import (
    CORPUS,
    DatasetSettings,
    EvaluationSettings,
    Name,
    evaluated_modality,
    known_layout,
)
from xdc_core.config.methods import MethodName, clustered_sources, heads, learn_from_each_other
from xdc_core.config.selection import SelectSettings
from xdc_core.config.stopping import StopSettings, check_rule
from xdc_core.config.training import TrainSettings
from xdc_core.modalities.audio import AUDIO, AudioSettings
from xdc_core.modalities.registry import BUILT_IN, ModalityName, in_order
from xdc_core.modalities.video import VIDEO, VideoSettings

FORMAT: Literal[1] = 1  # Of xdc.yaml.


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
    cache: str | None = Field(
        None,
        pattern=r"^[/~]",
        description="for corpora in object stores: a folder, on each machine's own disk, for what was read from them; "
        "null: none",
    )
    cache_gb: Positive = Field(50.0, description="gigabytes (10^9 bytes) that this folder may take")
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

    @property
    def clip_cache(self) -> Cache | None:
        """Return the cache of clips from object stores, if one is set."""
        if self.cache is None:
            return None
        return Cache(Path(self.cache).expanduser(), int(self.cache_gb * 1e9))


class RetainSettings(Section):
    """What of a run's earlier rounds stays on disk. Nothing here changes a result."""

    rounds: int | None = Field(
        None,
        ge=1,
        description="number of newest rounds whose features stay; of the others they are removed after each round, as "
        "by xdc clean; null: those of all rounds stay",
    )
    stale: bool = Field(
        False,
        description="after each round also remove what other settings have left: partial directories, earlier "
        "generations, features, clusters and labels of nodes that are not in this file",
    )


class SearchSettings(Section):
    """How clips are found by `xdc search`."""

    exact_up_to: Annotated[int, Since("0.2.0")] = Field(
        1_000_000, ge=0, description="with more clips than this, search is approximate: an inverted file (IVF) of faiss"
    )
    recall: Annotated[float, Since("0.2.0")] = Field(
        0.95,
        gt=0,
        le=1,
        description="share of the 10 nearest clips that it is to find, measured on clips of the run",
    )


def _with_known_layout(corpus: CorpusSettings) -> CorpusSettings:
    if corpus.layout is not None:
        known_layout(corpus.layout)
    return corpus


class Config(Section):
    """The configuration of a run."""

    format: Annotated[Literal[1], NotHashed()] = Field(
        FORMAT, description="version of this file's format; a file without it has format 1"
    )
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
    search: Annotated[SearchSettings, Since("0.2.0")] = Field(
        SearchSettings(), description="how `xdc search` finds clips"
    )
    retain: Annotated[RetainSettings, NotHashed()] = Field(
        RetainSettings(), description="what of earlier rounds stays on disk; see docs/disk.md"
    )

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
    def _nothing_but_features(self) -> "Config":
        given = self.corpus.features
        if given and set(given) != set(self.modalities):
            raise ValueError(
                f"corpus.features has {', '.join(sorted(given))}, and modalities is {', '.join(self.modalities)}: all "
                "modalities of a run have given features, or none"
            )
        media = {
            "rounds": bool(self.rounds),
            "last_training": self.last_training != "none",
            **{
                f"evaluate.{name}": each.protocol == "all" or each.data != CORPUS
                for name, each in self.evaluate.items()
            },
        }
        if given and (found := [name for name, needed in media.items() if needed]):
            raise ValueError(
                f"{', '.join(found)} needs media and encoders, and this run only has features (corpus.features): set "
                "rounds to 0 and last_training to none, and leave out evaluations with protocol all or of data sets"
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
            modality = evaluated_modality(evaluation, self.datasets)
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
        check_rule(self.stop, clustered_sources(self.method, self.modalities), self.evaluate)
        return self

    @model_validator(mode="after")
    def _k_for_every_source(self) -> "Config":
        wanted = clustered_sources(self.method, self.modalities)
        missing = [source for source in wanted if source not in self.cluster.k]
        if missing:
            raise ValueError(f"cluster.k has no entry for {', '.join(missing)}, which method {self.method} clusters")
        return self

    # The number of rounds that the user has set, if the stopping rule ended the run in an earlier one.
    _rounds_given: int | None = PrivateAttr(None)

    def ended_in(self, number: int) -> "Config":
        """Return the configuration of the run as its stopping rule has ended it: with `rounds` of that round."""
        ended = self.model_copy(update={"rounds": number})
        ended._rounds_given = self.rounds
        return ended

    @property
    def as_given(self) -> "Config":
        """Return the configuration as the user has set it, also if the stopping rule has ended the run."""
        return self if self._rounds_given is None else self.model_copy(update={"rounds": self._rounds_given})

    @property
    def encoded(self) -> tuple[str, ...]:
        """Return the modalities that have an encoder: none if features are given."""
        return () if self.corpus.features else self.modalities

    @property
    def last_round(self) -> int:
        """Return the number of the last round, the one without training."""
        return self.rounds + (self.last_training != "none")

    @property
    def protects(self) -> bool:
        """Return whether `train.protect` has an effect: it is set, and the encoders learn each other's clusters."""
        return bool(self.train.protect) and learn_from_each_other(self.method, self.modalities)
