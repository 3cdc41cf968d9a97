"""The cluster stage: clusters of the features behind a label source, by k-means (faiss) or another algorithm."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.corpus.index import in_splits, read_index
from shards.errors import ConfigError, StageError
from shards.sources.split import check_learn_splits
from shards.store.build import Outcome
from shards.store.stage import Stage, Task
from xdc_core.clustering.model import write_model
from xdc_core.clustering.preprocess import fit_preprocess
from xdc_core.compute.kmeans_check import faiss_gpus
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import limit_faiss
from xdc_core.config.methods import JOINT, clustered_from, clustered_sources
from xdc_core.config.schema import ClusterSettings, Config, RunsOn, algorithm_of, clustering_settings
from xdc_core.data.features import source_parts
from xdc_core.documents.kmeans import Kmeans, write_kmeans
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run


@dataclass(frozen=True)
class Clustering:
    """What the work is given of the configuration. `runs_on` decides how it is done only."""

    seed: int
    learn_splits: list[str] | None
    k: int | None
    cluster: ClusterSettings
    joint: bool
    runs_on: RunsOn

    def hashed(self) -> dict[str, Any]:
        """Return what decides the clusters."""
        own = clustering_settings(self.cluster) | ({"joint_l2": self.cluster.joint_l2} if self.joint else {})
        return {"seed": self.seed, "learn_splits": self.learn_splits, "k": self.k, **own}


def cluster(task: Task[Clustering]) -> Outcome:
    """Write the algorithm's model (of k-means centroids.npy, float32 [k, components]), preprocess.npz and kmeans.json.

    kmeans.json has the algorithm with its settings, objective and sizes, and where it ran (`on`): k-means on the GPUs
    if `runs_on.device` allows them and faiss works there, else on the CPU, and why not on a GPU that is there.
    A new seed every round, as in DeepCluster. The algorithm is fitted to all clips to learn from, or to a random
    sample of `sample_mb`; kmeans.json says how many.

    Raises:
        ConfigError: fewer clips than clusters, or a sample of fewer.
    """
    given, source, k = task.settings, task.about, task.settings.k
    assert k is not None
    seed = derive_seed(given.seed, task.round, "cluster", source)
    parts, clips = read_sample(task, seed)
    if len(parts[0]) < k <= clips:
        raise ConfigError(
            f"cluster.sample_mb ({given.cluster.sample_mb:g}) holds the features of {len(parts[0])} clips, but "
            f"cluster.k.{source} is {k}. Raise the one or lower the other."
        )
    if clips < k:
        raise ConfigError(
            f"cluster.k.{source} is {k}, but there are only {clips} clips to learn from. Lower it, or add clips."
        )
    threads = limit_faiss(given.runs_on)
    preprocess, kept = fit_preprocess(parts, given.cluster)
    points = preprocess(parts)
    del parts
    clusterer, settings = algorithm_of(given.cluster)
    on_gpus = clusterer.uses_gpus and given.runs_on.device != "cpu"
    gpus, why, _ = faiss_gpus() if on_gpus else (0, "", "")
    model, facts = clusterer.fit(points, k, settings, seed, threads, gpus)
    if on_gpus and not gpus and (why or given.runs_on.device == "cuda"):
        facts["on"] += f" ({why or 'faiss finds no GPU'})"
        print(f"warning: k-means on {facts['on']}", file=sys.stderr, flush=True)
    write_model(task.out, model)
    preprocess.save(task.out / "preprocess.npz")
    facts = {
        "algorithm": clusterer.name,
        "settings": settings.model_dump(mode="json"),
        "k": k,
        "clips": clips,
        "sample": len(points),
        "components": points.shape[1],
        "seed": seed,
        **kept,
        **facts,
    }
    write_kmeans(task.out, Kmeans.model_validate(facts))
    summary = {name: value for name, value in facts.items() if name not in ("sizes", "settings")}
    return Outcome(k, 0, summary)


def read_sample(task: Task[Clustering], seed: int) -> tuple[list[np.ndarray], int]:
    """Read the features that the algorithm is fitted to, float32 [sample, width] per modality, and count the clips.

    Reads shard by shard. Which rows are taken depends on the seed and the number of clips only.

    Raises:
        ConfigError: no clip has one of corpus.learn_splits.
    """
    corpus, features, splits = task.directory(SHARD), task.directories("extract"), task.settings.learn_splits
    counts, width = [], 0
    there: set[str] = set()
    for shard, keys, parts in source_parts(corpus, features):
        counts.append(int(_learnable(corpus, shard, keys, splits, there).sum()))
        width = sum(part.shape[1] for part in parts)
    if counts:
        check_learn_splits(splits, there, str(corpus))
    total = sum(counts)
    room = sample_size(task.settings.cluster, width)
    wanted = np.ones(total, bool)
    if room < total:
        chosen = np.random.default_rng(seed).choice(total, room, replace=False)
        wanted = np.zeros(total, bool)
        wanted[chosen] = True
    taken: list[list[np.ndarray]] = []
    first = 0
    for number_done, (shard, keys, parts) in enumerate(source_parts(corpus, features), start=1):
        learnable = np.flatnonzero(_learnable(corpus, shard, keys, splits, there))
        rows = learnable[wanted[first : first + len(learnable)]]
        first += len(learnable)
        taken.append([part[rows] for part in parts])
        task.progress(number_done, len(counts), "shards read")
    if not taken:
        raise StageError(f"{corpus} has no shards: there is nothing to cluster.")
    return [np.concatenate(columns) for columns in zip(*taken, strict=True)], total


def sample_size(settings: ClusterSettings, width: int) -> int:
    """How many float32 vectors fit `sample_mb`."""
    return max(1, int(settings.sample_mb * 1e6 / (4 * max(width, 1))))


def _learnable(corpus: Path, shard: str, keys: np.ndarray, splits: list[str] | None, there: set[str]) -> np.ndarray:
    """bool [keys]: which clips are in the splits to learn from. Adds the shard's splits to `there`."""
    if splits is None:
        return np.ones(len(keys), bool)
    index = read_index(corpus, shard, ["key", "split"])
    there.update(split or "" for split in index["split"].unique().to_pylist())
    wanted = set(index["key"].to_numpy()[in_splits(index["split"], splits)])
    return np.fromiter((key in wanted for key in keys), bool, len(keys))


def _nodes(config: Config, number: int | None) -> list[Node]:
    sources = clustered_sources(config.method, config.modalities)
    return [] if number is None else [Node("cluster", source, number) for source in sources]


def _inputs(config: Config, node: Node) -> list[Node]:
    return [SHARD, *clustered_features(config, node)]


def clustered_features(config: Config, node: Node) -> list[Node]:
    """Return the nodes whose features a label source is clustered from."""
    return [Node("extract", name, node.round) for name in clustered_from(str(node.modality), config.modalities)]


def _settings(config: Config, node: Node) -> Clustering:
    source = str(node.modality)
    return Clustering(
        seed=config.seed,
        learn_splits=config.corpus.learn_splits,
        k=config.cluster.k.get(source),
        cluster=config.cluster,
        joint=source == JOINT,
        runs_on=config.runs_on,
    )


CLUSTER: Stage[Config, Run, Clustering] = Stage(
    name="cluster",
    version=1,
    summary="Find the centroids of one label source (video, audio or joint).",
    folder="clusters",
    of="modality",
    each_round=True,
    library="faiss",
    modules=("faiss", "xdc_core.stages.cluster", "sklearn.metrics.cluster"),
    nodes=_nodes,
    inputs=_inputs,
    settings=_settings,
    work=cluster,
)
