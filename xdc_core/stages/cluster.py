"""The cluster stage: cluster the features of a label source, by k-means (faiss) or another algorithm."""

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from shards.errors import ConfigError
from shards.store.build import Outcome
from shards.store.stage import Stage, Task
from xdc_core.clustering.clusterer import Model
from xdc_core.clustering.model import array_file, write_model
from xdc_core.clustering.pca import few_clips_for_whitening
from xdc_core.clustering.preprocess import fit_preprocess
from xdc_core.clustering.registry import KMEANS
from xdc_core.compute.kmeans_check import faiss_gpus
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import limit_faiss
from xdc_core.config.clustering import ClusterSettings, algorithm_of, clustering_settings, k_in_round
from xdc_core.config.methods import JOINT, clustered_from, clustered_sources
from xdc_core.config.schema import Config, RunsOn
from xdc_core.config.selection import ALL_CLIPS, SelectSettings
from xdc_core.documents.kmeans import FILE_NAME, Kmeans, write_kmeans
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run
from xdc_core.stages.lloyd import begin_lloyd, lloyd, lloyd_begun, lloyd_folder
from xdc_core.stages.sample import SAMPLE, Learnable, count_learnable, read_sample, remove_folder

# Clips per cluster in a sample. On held-out clips the objective of k-means was 0.4 % above that of a fit to all clips
# with 1,500, 1.4 % with 312, 5 % with 62.
ENOUGH = 600
# Multiplications of a fit, clips * clusters * components * iterations. With fewer a CPU is done in the time in which a
# GPU has been started and tried: on an H200 a fit of 4,200 clips took 6 s, on two CPU cores 0.1 to 0.4 s.
WORTH_A_GPU = 1e10
Fit = tuple[Model, dict[str, Any]]  # A clustering, and its part of kmeans.json.


@dataclass(frozen=True)
class Clustering:
    """The part of the configuration for the stage. `runs_on` is not part of the fingerprint."""

    seed: int
    learn_splits: list[str] | None
    k: int | None
    cluster: ClusterSettings
    joint: bool
    runs_on: RunsOn
    select: SelectSettings = ALL_CLIPS

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide the clusters."""
        own = clustering_settings(self.cluster, self.joint)
        own |= self.select.hashed()
        return {"seed": self.seed, "learn_splits": self.learn_splits, "k": self.k, **own}


def tries_gpus(settings: ClusterSettings, device: str, rows: int, k: int, components: int) -> bool:
    """Return whether GPUs are looked for to cluster points, float32 [rows, components]. device: of `runs_on`."""
    clusterer, _ = algorithm_of(settings)
    too_small = clusterer is KMEANS and rows * k * components * settings.iterations < WORTH_A_GPU
    return clusterer.uses_gpus and (device == "cuda" or (device == "auto" and not too_small))


def cluster(task: Task[Clustering]) -> Outcome:
    """Write the algorithm's model (for k-means centroids.npy, float32 [k, components]), preprocess.npz and kmeans.json.

    kmeans.json has the algorithm with its settings, the objective, the sizes, and the device (`on`). k-means uses the
    GPUs if `runs_on.device` allows them and faiss works on them (with `auto`: for fits that take a CPU more than about
    a second); otherwise it uses the CPU, and `on` has the reason why an existing GPU does not work. Every round has a
    new seed, as in DeepCluster. The algorithm is fitted to all clips to learn from, or to a random sample of
    `sample_mb`; kmeans.json has their number. k-means then does `iterations_over_all` further iterations over all
    clips.

    With `heads` above 1 there are as many clusterings of the same preprocessed features, each with a seed of its own.
    The files of the first are those without a number; centroids-1.npy is of the second, and `clusterings` in
    kmeans.json has its details.

    Raises:
        ConfigError: fewer clips than clusters, or a sample with fewer.
    """
    given, out = task.settings, task.out
    clusterer, heads = algorithm_of(given.cluster)[0], range(given.cluster.heads)
    learnable = count_learnable(task.directory(SHARD), task.directories("extract"), given.learn_splits, given.select)
    if not given.cluster.iterations_over_all:
        fits = fit_sample(task, learnable)
    else:
        if not all(lloyd_begun(out, head) for head in heads):
            for head, (model, details) in enumerate(fit_sample(task, learnable)):
                begin_lloyd(out, head, model["centroids"], details)
        iterations = given.cluster.iterations_over_all
        fits = [lloyd(task, learnable, iterations, given.runs_on, head, len(heads)) for head in heads]
    for head, (model, _) in enumerate(fits):
        write_model(out, model, head)
    details, *others = (details for _, details in fits)
    write_kmeans(out, Kmeans.model_validate(details | ({"clusterings": others} if others else {})))
    for folder in (out / SAMPLE, *(lloyd_folder(out, head) for head in heads)):
        remove_folder(folder)
    summary = {name: value for name, value in details.items() if name not in ("sizes", "settings")}
    files = [array_file(name, head) for head in heads for name in clusterer.arrays]
    return Outcome(details["k"], 0, summary | ({"heads": len(heads)} if others else {}), (*files, FILE_NAME))


def fit_sample(task: Task[Clustering], learnable: Learnable) -> list[Fit]:
    """Fit preprocessing and clusterings to a sample of the clips. Write preprocess.npz; return the clusterings.

    Raises:
        ConfigError: fewer clips than clusters, or a sample with fewer.
    """
    given, source, k, clips = task.settings, task.about, task.settings.k, learnable.total
    assert k is not None
    seed = derive_seed(given.seed, task.round, "cluster", source)
    parts = read_sample(task, learnable, given.cluster.sample_mb, seed)
    if len(parts[0]) < k <= clips:
        raise ConfigError(
            f"cluster.sample_mb ({given.cluster.sample_mb:g}) holds the features of {len(parts[0])} clips, but "
            f"cluster.k.{source} is {k}. Raise sample_mb or lower k."
        )
    if clips < k:
        raise ConfigError(
            f"cluster.k.{source} is {k}, but there are only {clips} clips to learn from. Lower it, or add clips."
        )
    clusterer, settings = algorithm_of(given.cluster)
    if clusterer is KMEANS and (warning := small_sample(given.cluster, k, parts, clips)):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    threads = limit_faiss(given.runs_on)
    names = [str(node.modality) for node in task.inputs if node.stage == "extract"]
    preprocess, kept = fit_preprocess(parts, given.cluster, seed, names)
    if warning := few_clips_for_whitening(kept.get("pca_kept"), len(parts[0]), kept.get("whitened", False)):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    points = preprocess(parts)
    del parts
    on_gpus = tries_gpus(given.cluster, given.runs_on.device, len(points), k, points.shape[1])
    gpus, why, _ = faiss_gpus() if on_gpus else (0, "", "")
    fits = list[Fit]()
    for head in range(given.cluster.heads):
        own = derive_seed(given.seed, task.round, "cluster", source, head) if head else seed
        model, details = clusterer.fit(points, k, settings, own, threads, gpus)
        if on_gpus and not gpus and (why or given.runs_on.device == "cuda"):
            details["on"] += f" ({why or 'faiss finds no GPU'})"
            if not head:
                print(f"warning: {clusterer.name} on {details['on']}", file=sys.stderr, flush=True)
        about = {
            "algorithm": clusterer.name,
            "settings": settings.model_dump(mode="json"),
            "k": k,
            "clips": clips,
            "sample": len(points),
            "components": points.shape[1],
            "seed": own,
            **kept,
            **details,
        }
        fits.append((model, about))
    preprocess.save(task.out / "preprocess.npz")
    return fits


def small_sample(settings: ClusterSettings, k: int, parts: list[np.ndarray], clips: int) -> str:
    """Return a warning if k-means is fitted to a sample that is small for k clusters; otherwise nothing.

    If all clips are used there is none, however few they are: no setting would add any.
    """
    sample, enough = len(parts[0]), min(clips, ENOUGH * k)
    if sample >= enough or settings.iterations_over_all:
        return ""
    megabytes = math.ceil(enough * 4 * sum(part.shape[1] for part in parts) / 1e6)
    return (
        f"k-means is fitted to a sample of {sample} of {clips} clips, {sample / k:.0f} per cluster. Below about "
        f"{ENOUGH} its objective over all clips is higher (1.4 % at 312, 5 % at 62). Raise cluster.sample_mb to "
        f"{megabytes}, or set cluster.iterations_over_all to 5."
    )


def _nodes(config: Config, number: int | None) -> list[Node]:
    sources = clustered_sources(config.method, config.modalities)
    return [] if number is None else [Node("cluster", source, number) for source in sources]


def _inputs(config: Config, node: Node) -> list[Node]:
    return [SHARD, *clustered_features(config, node)]


def clustered_features(config: Config, node: Node) -> list[Node]:
    """Return the nodes whose features a label source is clustered from."""
    return [Node("extract", name, node.round) for name in clustered_from(str(node.modality), config.modalities)]


def _settings(config: Config, node: Node) -> Clustering:
    assert node.round is not None
    source = str(node.modality)
    return Clustering(
        seed=config.seed,
        learn_splits=config.corpus.learn_splits,
        k=k_in_round(config.cluster, source, node.round),
        cluster=config.cluster,
        joint=source == JOINT,
        runs_on=config.runs_on,
        select=config.select,
    )


CLUSTER: Stage[Config, Run, Clustering] = Stage(
    name="cluster",
    version=1,
    summary="Cluster the features of one label source (a modality, or joint).",
    unit="cluster",
    folder="clusters",
    of="modality",
    each_round=True,
    library="faiss",
    modules=("faiss", "xdc_core.clustering.kmeans", "sklearn.metrics.cluster"),
    nodes=_nodes,
    inputs=_inputs,
    settings=_settings,
    work=cluster,
)
