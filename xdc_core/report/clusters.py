"""The clusters of one label source in one round: size, purity, mean distance, and the clips nearest to the centroid."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from shards.corpus.index import label_columns, read_index, shard_names
from shards.store.files import part_path
from shards.store.parquet import read_parquet
from xdc_core.documents.report import Cluster, TopLabel

TOP_LABELS = 3


def cluster_rows(corpus: Path, labels: Path, k: int, nearest: int) -> list[Cluster]:
    """Return the k clusters of a committed directory of pseudo-labels, in the order of their numbers.

    Reads it shard by shard. Labels are from the first label column of the corpus. The examples of a cluster are its
    `nearest` clips, nearest first (for equal distances, the smaller key first).
    """
    column = next(iter(label_columns(corpus)), None)
    sizes, sums = np.zeros(k, np.int64), np.zeros(k, np.float64)
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    closest: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for shard in shard_names(corpus):
        table = read_parquet(part_path(labels, shard), "label", ["key", "cluster", "distance"])
        keys, clusters, distances = (table[name].to_numpy() for name in ("key", "cluster", "distance"))
        sizes += np.bincount(clusters, minlength=k)
        sums += np.bincount(clusters, weights=distances, minlength=k)
        for cluster, first in _first_of_each(clusters, distances, keys, nearest):
            closest[cluster] = sorted(closest[cluster] + first)[:nearest]
        if column is not None:
            index = read_index(corpus, shard, ["key", column])
            truth = dict(zip(index["key"].to_pylist(), index[column].to_pylist(), strict=True))
            for cluster, key in zip(clusters.tolist(), keys.tolist(), strict=True):
                if truth.get(key) is not None:
                    counts[cluster][truth[key]] += 1
    rows = []
    for cluster in range(k):
        top = _top_labels(counts[cluster])
        rows.append(
            Cluster(
                cluster=cluster,
                size=int(sizes[cluster]),
                distance=round(float(sums[cluster] / sizes[cluster]), 4) if sizes[cluster] else None,
                purity=top[0].share if top else None,
                top=top,
                examples=[key for _, key in closest[cluster]],
            )
        )
    return rows


def purest_first(clusters: Iterable[Cluster]) -> list[Cluster]:
    """Return the clusters whose purity is known, the purest first."""
    known = [(cluster.purity, cluster) for cluster in clusters if cluster.purity is not None]
    known.sort(key=lambda pair: (-pair[0], -pair[1].size, pair[1].cluster))
    return [cluster for _, cluster in known]


def _first_of_each(
    clusters: np.ndarray, distances: np.ndarray, keys: np.ndarray, nearest: int
) -> Iterator[tuple[int, list[tuple[float, str]]]]:
    """Yield each cluster in one shard, with its `nearest` clips in this shard as (distance, key)."""
    if not len(keys):
        return
    order = np.lexsort((keys.astype(str), distances, clusters))
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        chosen = order[start : min(stop, start + nearest)]
        yield int(clusters[order[start]]), list(zip(distances[chosen].tolist(), keys[chosen].tolist(), strict=True))


def _top_labels(counts: Counter[str]) -> list[TopLabel]:
    """Return the most frequent labels; equally frequent ones in the order of their names."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP_LABELS]
    return [TopLabel(label=name, share=round(count / counts.total(), 4)) for name, count in ordered]
