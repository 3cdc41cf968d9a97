"""What a run will take: hours, bytes and memory of its stages, from what a sample took."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shards.settings import is_url
from xdc_core.config.schema import Config
from xdc_core.planning.arithmetic import (
    HOUR,
    INDEX_MAPPED_BYTES,
    INDEX_PRIVATE_BYTES,
    LABEL_BYTES,
    PLAN_BYTES,
    feature_bytes,
    kept_rounds,
    kmeans_s,
    linear,
    shards_of,
    whole_run,
)
from xdc_core.planning.clustering import ClusteringRate
from xdc_core.planning.draw import Drawn
from xdc_core.planning.estimate import Range, constant, range_of, ratio, weights
from xdc_core.planning.trial import label_sources, largest_k
from xdc_core.runs.node import Node
from xdc_core.stages.sample import sample_size

# Seconds a clip, measured elsewhere because small shards mislead: to read features (shards of 1,000 clips, two
# modalities), and to store labels (benchmarks/growth.py: see benchmarks/rates.json).
READ_S = 2e-5
LABEL_S = 2.5e-5
OfSample = Callable[[Sequence[float]], np.ndarray]

CHECKPOINTS = 2  # On the disk at a time, while the next one is written: weights and what the optimiser keeps.
ONCE = ("shard", "init")


@dataclass(frozen=True)
class Work:
    """What a node of the trial did: seconds, units (clips or steps), and the pairs (units, seconds) between its
    messages of progress. bytes: of its directory. parts: how many shards it wrote.
    """

    node: Node
    seconds: float
    units: float
    steps: tuple[tuple[float, float], ...]
    bytes: int
    parts: int = 1

    def each_s(self, seed: int) -> np.ndarray:
        """Return the seconds of a unit: float64 [1 + DRAWS]. Without pairs to compare it has no range."""
        if len(self.steps) < 2:
            return constant(self.seconds / max(1, self.units))
        units, seconds = zip(*self.steps, strict=True)
        return ratio(weights(len(units), 1 << 62, seed), seconds, units)

    def fixed_s(self, each_s: float) -> float:
        """Return the seconds that do not depend on the number of units."""
        return max(0.0, self.seconds - each_s * self.units)


@dataclass(frozen=True)
class Trial:
    """What the trial has measured.

    listed: number of sources of the run. headers: seconds of drawn sources. drawn: the sources of the sample or their
    stretches, with the clips, their bytes, and seconds of cutting a second of media, of each. survey: the work of
    looking at files; cut: of cutting, units are seconds of media. works: of the other nodes. widths: of features, by
    modality. key_bytes: of a clip's key in a file of features. clustering: by label source. memory: largest sum over
    the processes of a stage, in bytes; {} where it cannot be read. learnt: share of sources to learn from. rejects: a
    line for each kind of rejects of the sample. unread: inputs of the run that are rejected by their names or rows
    alone.
    """

    listed: int
    headers: Sequence[float]
    drawn: Sequence[Drawn]
    clips: Sequence[int]
    bytes: Sequence[int]
    costs: Sequence[float]
    survey: Work
    cut: Work
    works: Sequence[Work]
    widths: Mapping[str, int]
    key_bytes: float
    clustering: Mapping[str, ClusteringRate]
    memory: Mapping[str, int]
    learnt: float = 1.0
    rejects: Sequence[str] = ()
    unread: int = 0


@dataclass(frozen=True)
class StagePlan:
    """A row of a plan: how often a node is run, its hours each time, and the largest memory of its stage in bytes."""

    node: str
    times: int
    hours: Range
    memory: float | None


@dataclass(frozen=True)
class DiskPlan:
    """A row of a plan: what takes bytes, and in which folder: "corpus" or "run"."""

    what: str
    place: str
    bytes: Range


@dataclass(frozen=True)
class Forecast:
    """A plan. unusable: sources of the sample that give no clip. unread: as in `Trial`. media_hours: of all sources.
    once_hours, round_hours, hours: of the stages that are run once, of a round with training, and of the whole run.
    places: bytes by folder. notes: what the numbers do not contain.
    """

    sources: int
    headers_read: int
    tried: int
    unusable: int
    unread: int
    rejects: tuple[str, ...]
    media_hours: Range
    clips: Range
    trainings: int
    rounds: int
    stages: tuple[StagePlan, ...]
    once_hours: Range
    round_hours: Range
    hours: Range
    disk: tuple[DiskPlan, ...]
    places: Mapping[str, Range]
    notes: tuple[str, ...] = field(default=())


def forecast(config: Config, trial: Trial) -> Forecast:
    """Return the plan of a run.

    The sources decide the ranges of clips, of cutting and of the corpus; the messages of progress that of the stages
    after it. With `runs_on.parallel` the nodes of a stage are run side by side, and the slowest counts.
    """
    seed = config.seed
    of_headers = weights(len(trial.headers), trial.listed, seed)
    seconds = [each.seconds for each in trial.drawn]
    larger = [each.seconds / each.tried_s if each.tried_s else 1.0 for each in trial.drawn]
    media = trial.listed * ratio(of_headers, trial.headers, [1] * len(trial.headers))
    tried = sum(each.tried_s for each in trial.drawn)
    # In parts as long as those that were tried, the media would be so many. If they were tried whole, nothing is left.
    parts = round(len(trial.drawn) * float(media[0]) / tried) if tried else trial.listed
    of_drawn = weights(len(trial.drawn), parts, seed + 1)

    def of_sample(parts: Sequence[float]) -> np.ndarray:
        """Return the sum over all sources of something that the sample's sources have."""
        whole = [part * factor for part, factor in zip(parts, larger, strict=True)]
        return media * ratio(of_drawn, whole, seconds)

    clips = of_sample(trial.clips)
    learnt = clips * trial.learnt
    trainings = config.rounds + (config.last_training != "none")
    rounds = config.last_round + 1
    times = _times(config, trial, clips, learnt, of_sample)
    counts = {node: _count(node, trainings, rounds) for node in times}
    memory = _memory(config, trial, float(clips[0]), float(learnt[0]))
    once = _together(config, {node: value for node, value in times.items() if node.stage in ONCE})
    a_round = _together(config, {node: value for node, value in times.items() if node.stage not in ONCE})
    training = _together(config, {node: value for node, value in times.items() if node.stage == "train"})
    last = a_round - training if trainings < rounds else constant(0.0)
    hours = whole_run(once, a_round, trainings) + last * (rounds - trainings)
    disk = _disk(config, trial, clips, of_sample, trainings, rounds)
    places = {
        place: range_of(sum((values for _, where, values in disk if where == place), constant(0.0)))
        for place in dict.fromkeys(where for _, where, _ in disk)
    }
    return Forecast(
        sources=trial.listed,
        headers_read=len(trial.headers),
        tried=len({each.number for each in trial.drawn}),
        unusable=len(_without_clips(trial)),
        unread=trial.unread,
        rejects=tuple(trial.rejects),
        media_hours=range_of(media / HOUR),
        clips=range_of(clips),
        trainings=trainings,
        rounds=rounds,
        stages=tuple(
            StagePlan(node.name, counts[node], range_of(value / HOUR), memory.get(node.stage))
            for node, value in times.items()
        ),
        once_hours=range_of(once / HOUR),
        round_hours=range_of(a_round / HOUR),
        hours=range_of(hours / HOUR),
        disk=tuple(DiskPlan(what, where, range_of(values)) for what, where, values in disk),
        places=places,
        notes=tuple(_notes(config, trial)),
    )


def _without_clips(trial: Trial) -> set[int]:
    """Return the numbers of the sources of the sample that give no clip."""
    given = {each.number for each, count in zip(trial.drawn, trial.clips, strict=True) if count}
    return {each.number for each in trial.drawn} - given


def _count(node: Node, trainings: int, rounds: int) -> int:
    if node.stage in ONCE:
        return 1
    return trainings if node.stage in ("train", "teachers") else rounds


def _together(config: Config, times: Mapping[Node, np.ndarray]) -> np.ndarray:
    """Return the time of nodes: stages follow one another, and the nodes of one are side by side if so configured."""
    by_stage: dict[str, list[np.ndarray]] = {}
    for node, value in times.items():
        by_stage.setdefault(node.stage, []).append(value)
    join = np.maximum.reduce if config.runs_on.parallel else np.add.reduce
    return sum((join(values) for values in by_stage.values()), constant(0.0))


def _times(
    config: Config, trial: Trial, clips: np.ndarray, learnt: np.ndarray, of_sample: OfSample
) -> dict[Node, np.ndarray]:
    """Return the seconds of each node of the run, by the node of the trial."""
    seed, sources = config.seed, label_sources(config)
    each = trial.survey.each_s(seed)
    surveyed = linear(trial.survey.fixed_s(each[0]), each, constant(trial.listed))
    # The level is that of the stage, with all its processes; how it varies is that of single clips of each source.
    costs = of_sample([cost * one.tried_s for cost, one in zip(trial.costs, trial.drawn, strict=True)])
    spent = sum(cost * one.tried_s for cost, one in zip(trial.costs, trial.drawn, strict=True))
    cut_each = trial.cut.each_s(seed)[0]
    level = cut_each * trial.cut.units / spent if spent else 0.0
    times = {Node("shard"): surveyed + linear(trial.cut.fixed_s(cut_each), constant(level), costs)}
    steps = math.ceil(config.train.clips / config.train.batch)
    for work in trial.works:
        stage, source = work.node.stage, str(work.node.modality)
        each = work.each_s(seed)
        if stage == "extract":
            times[work.node] = linear(work.fixed_s(each[0]), each, clips)
        elif stage == "train":
            times[work.node] = linear(work.fixed_s(each[0]), each, constant(steps))
        elif stage == "cluster" and source in trial.clustering:
            rate = trial.clustering[source]
            sample = sample_size(config.cluster.sample_mb, rate.widths)
            fitted = kmeans_s(learnt, sample, READ_S, rate.fit_row_s, config.cluster.heads)
            over_all = config.cluster.iterations_over_all * config.cluster.heads * (rate.assign_row_s + READ_S)
            times[work.node] = work.seconds + fitted + learnt * over_all
        elif stage == "label" and source in trial.clustering:
            row_s = READ_S + LABEL_S + trial.clustering[source].assign_row_s * config.cluster.heads
            times[work.node] = linear(work.seconds, constant(row_s), clips)
        elif stage == "init":
            most = config.extract.calibration_batches * config.extract.batch  # Clips that batch norm sees.
            more = np.minimum(clips, most) / min(sum(trial.clips), most) if most else constant(1.0)
            times[work.node] = work.seconds * np.maximum(1.0, more)
        elif stage == "report":
            times[work.node] = constant(work.seconds * _more_examples(config, trial, sources))
        else:
            times[work.node] = constant(work.seconds)
    return times


def _more_examples(config: Config, trial: Trial, sources: Sequence[str]) -> float:
    """Return how many times as many example clips the reports of the run show as that of the trial."""
    each, tried = config.report.examples, sum(trial.clips)
    wanted = sum(min(config.report.most_examples, each * largest_k(config, name)) for name in sources)
    shown = sum(min(config.report.most_examples, each * largest_k(config, name), tried) for name in sources)
    return max(1.0, wanted / shown) if shown else 1.0


def _memory(config: Config, trial: Trial, clips: float, learnt: float) -> dict[str, float]:
    """Return the largest memory of each stage: that of the trial, and what grows with sources and clips."""
    rows = {
        source: min(learnt, sample_size(config.cluster.sample_mb, rate.widths)) * 4 * rate.widths
        for source, rate in trial.clustering.items()
    }
    grown = {
        "shard": PLAN_BYTES * trial.listed,
        "train": len(config.modalities) * INDEX_PRIVATE_BYTES * clips + INDEX_MAPPED_BYTES * clips,
        # The features, and what preprocessing makes of them.
        "cluster": 2 * (sum(rows.values()) if config.runs_on.parallel else max(rows.values(), default=0.0)),
    }
    return {stage: value + grown.get(stage, 0.0) for stage, value in trial.memory.items()}


def _disk(
    config: Config, trial: Trial, clips: np.ndarray, of_sample: OfSample, trainings: int, rounds: int
) -> list[tuple[str, str, np.ndarray]]:
    """Return (what, place, bytes) of all that stays, and of the checkpoints of one training."""
    per_shard = config.corpus.clips_per_shard
    shards = shards_of(float(clips[0]), per_shard)
    works = {work.node: work for work in trial.works}
    tried = max(1, sum(trial.clips))
    media = sum(trial.bytes)
    overhead = max(0.0, trial.cut.bytes / media) if media else 1.0
    corpus = of_sample(trial.bytes) * overhead
    rows = [("clips", "object store" if is_url(config.corpus.path) else "corpus", corpus)]

    def parts_bytes(work: Work, each: float) -> np.ndarray:
        of_a_part = max(0.0, work.bytes - each * tried) / max(1, work.parts)
        return clips * each + of_a_part * shards

    def sum_of(stage: str, one: Callable[[Work], np.ndarray]) -> np.ndarray:
        return sum((one(work) for node, work in works.items() if node.stage == stage), constant(0.0))

    def features_of(work: Work) -> np.ndarray:
        return parts_bytes(work, feature_bytes(trial.widths[str(work.node.modality)]) + trial.key_bytes)

    features = sum_of("extract", features_of)
    labels = sum_of("label", lambda work: parts_bytes(work, LABEL_BYTES * config.cluster.heads))
    kept = kept_rounds(rounds, config.retain.rounds)
    encoders = sum_of("train", lambda work: constant(work.bytes))
    first = sum_of("init", lambda work: constant(work.bytes))
    clusters = sum_of("cluster", lambda work: constant(work.bytes)) + sum(
        largest_k(config, name) * min(config.cluster.pca or rate.widths, rate.widths) * 4 * config.cluster.heads
        for name, rate in trial.clustering.items()
    )
    reports = sum_of("report", lambda work: constant(work.bytes * _more_examples(config, trial, label_sources(config))))
    copies = 3 if config.train.optimizer == "adamw" else 2
    rows += [
        (f"features of {kept} rounds", "run", features * kept),
        (f"labels of {rounds} rounds", "run", labels * rounds),
        (f"clusters of {rounds} rounds", "run", clusters * rounds),
        (f"encoders of {trainings} trainings", "run", first + encoders * trainings),
        ("checkpoints of a training", "run", encoders * copies * CHECKPOINTS * (trainings > 0)),
        (f"reports of {rounds} rounds", "run", reports * rounds),
    ]
    return rows


def _notes(config: Config, trial: Trial) -> list[str]:
    notes = []
    if config.runs_on.executor != "local":
        notes.append(
            f"runs_on.executor is {config.runs_on.executor}. The hours are for one worker on this machine: divide "
            "those of shard, extract and label by the number of workers. cluster, init and report are done by one "
            f"process; train was tried with {max(1, config.train.processes // config.runs_on.nodes)} processes here."
        )
    if config.runs_on.nodes > 1:
        notes.append(
            f"train was tried on this machine alone, with 1 of {config.runs_on.nodes} nodes: divide its hours."
        )
    if config.evaluate:
        notes.append(f"Evaluations ({', '.join(config.evaluate)}) and their data sets are not planned.")
    if config.stop.when != "never":
        notes.append(f"stop.when is {config.stop.when}: the run may end before its {config.rounds} rounds.")
    if config.select.thresholds:
        notes.append("select leaves clips out of clusters and trainings; the plan has them all.")
    if config.label.assign == "balanced":
        notes.append("label.assign is balanced: its passes over all clips are not planned.")
    if is_url(config.corpus.path):
        notes.append("The corpus is to be in an object store: the time of transfers is not planned.")
    if not trial.memory:
        notes.append("Memory is measured where there is /proc (Linux).")
    return notes
