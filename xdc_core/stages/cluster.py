"""The cluster stage: cluster the features of a label source, by k-means (faiss) or another algorithm."""

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
    """The part of the configuration for the stage. `runs_on` is not part of the fingerprint."""

    seed: int
    learn_splits: list[str] | None
    k: int | None
    cluster: ClusterSettings
    joint: bool
    runs_on: RunsOn

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide the clusters."""
        own = clustering_settings(self.cluster) | ({"joint_l2": self.cluster.joint_l2} if self.joint else {})
        return {"seed": self.seed, "learn_splits": self.learn_splits, "k": self.k, **own}


def cluster(task: Task[Clustering]) -> Outcome:
    """Write the algorithm's model (for k-means centroids.npy, float32 [k, components]), preprocess.npz and kmeans.json.

    kmeans.json has the algorithm with its settings, the objective, the sizes, and the device (`on`). k-means uses the
    GPUs if `runs_on.device` allows them and faiss works on them; otherwise it uses the CPU, and `on` has the reason why
    an existing GPU is not used. Every round has a new seed, as in DeepCluster. The algorithm is fitted to all clips to
    learn from, or to a random sample of `sample_mb`; kmeans.json has their number.

    Raises:
        ConfigError: fewer clips than clusters, or a sample with fewer.
    """
    given, source, k = task.settings, task.about, task.settings.k
    assert k is not None
    seed = derive_seed(given.seed, task.round, "cluster", source)
    parts, clips = read_sample(task, seed)
    if len(parts[0]) < k <= clips:
        raise ConfigError(
            f"cluster.sample_mb ({given.cluster.sample_mb:g}) holds the features of {len(parts[0])} clips, but "
            f"cluster.k.{source} is {k}. Raise sample_mb or lower k."
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
    model, details = clusterer.fit(points, k, settings, seed, threads, gpus)
    if on_gpus and not gpus and (why or given.runs_on.device == "cuda"):
        details["on"] += f" ({why or 'faiss finds no GPU'})"
        print(f"warning: {clusterer.name} on {details['on']}", file=sys.stderr, flush=True)
    write_model(task.out, model)
    preprocess.save(task.out / "preprocess.npz")
    details = {
        "algorithm": clusterer.name,
        "settings": settings.model_dump(mode="json"),
        "k": k,
        "clips": clips,
        "sample": len(points),
        "components": points.shape[1],
        "seed": seed,
        **kept,
        **details,
    }
    write_kmeans(task.out, Kmeans.model_validate(details))
    summary = {name: value for name, value in details.items() if name not in ("sizes", "settings")}
    return Outcome(k, 0, summary)


def read_sample(task: Task[Clustering], seed: int) -> tuple[list[np.ndarray], int]:
    """Read the features for the fit, float32 [sample, width] per modality, and count the clips to learn from.

    Reads shard by shard. The sampled rows depend on the seed and the number of clips only.

    Raises:
        ConfigError: no clip has one of corpus.learn_splits.
    """
    corpus, features, splits = task.directory(SHARD), task.directories("extract"), task.settings.learn_splits
    counts, width = [], 0
    splits_of_corpus: set[str] = set()
    for shard, keys, parts in source_parts(corpus, features):
        counts.append(int(_learnable(corpus, shard, keys, splits, splits_of_corpus).sum()))
        width = sum(part.shape[1] for part in parts)
    if counts:
        check_learn_splits(splits, splits_of_corpus, str(corpus))
    total = sum(counts)
    limit = sample_size(task.settings.cluster, width)
    in_sample = np.ones(total, bool)
    if limit < total:
        chosen = np.random.default_rng(seed).choice(total, limit, replace=False)
        in_sample = np.zeros(total, bool)
        in_sample[chosen] = True
    sampled: list[list[np.ndarray]] = []
    first = 0
    for number_done, (shard, keys, parts) in enumerate(source_parts(corpus, features), start=1):
        learnable = np.flatnonzero(_learnable(corpus, shard, keys, splits, splits_of_corpus))
        rows = learnable[in_sample[first : first + len(learnable)]]
        first += len(learnable)
        sampled.append([part[rows] for part in parts])
        task.progress(number_done, len(counts), "shards read")
    if not sampled:
        raise StageError(f"{corpus} has no shards. Check its manifest, and build the corpus again.")
    return [np.concatenate(columns) for columns in zip(*sampled, strict=True)], total


def sample_size(settings: ClusterSettings, width: int) -> int:
    """Return the number of float32 vectors of `width` that fit into `sample_mb`."""
    return max(1, int(settings.sample_mb * 1e6 / (4 * max(width, 1))))


def _learnable(corpus: Path, shard: str, keys: np.ndarray, splits: list[str] | None, seen: set[str]) -> np.ndarray:
    """Return which clips are in the splits to learn from, bool [keys]. Adds the shard's splits to `seen`."""
    if splits is None:
        return np.ones(len(keys), bool)
    index = read_index(corpus, shard, ["key", "split"])
    seen.update(split or "" for split in index["split"].unique().to_pylist())
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
    summary="Cluster the features of one label source (a modality, or joint).",
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
