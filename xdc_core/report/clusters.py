"""The clusters of one label source in one round: how large, how pure, how tight, and their nearest clips."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shards.corpus.index import label_columns, read_index, shard_names
from shards.store.parquet import read_parquet
from xdc_core.runs.run import Run

TOP_LABELS = 3


def cluster_rows(run: Run, labels: Path, k: int, nearest: int) -> list[dict[str, Any]]:
    """A row a cluster, by number, from a committed directory of pseudo-labels. Reads it shard by shard.

    size: clips. distance: their mean distance to the centroid; None for an empty cluster. purity: the share of the
    most frequent label among the labelled clips, and top: the three most frequent with their shares, by the corpus's
    first label column; None and [] without labels. examples: the keys of the `nearest` clips, nearest first (of equal
    distances the smaller key).
    """
    column = next(iter(label_columns(run.corpus)), None)
    sizes, sums = np.zeros(k, np.int64), np.zeros(k, np.float64)
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    closest: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for shard in shard_names(run.corpus):
        table = read_parquet(labels / f"{shard}.parquet", "label", ["key", "cluster", "distance"])
        keys, clusters, distances = (table[name].to_numpy() for name in ("key", "cluster", "distance"))
        sizes += np.bincount(clusters, minlength=k)
        sums += np.bincount(clusters, weights=distances, minlength=k)
        for cluster, found in _first_of_each(clusters, distances, keys, nearest):
            closest[cluster] = sorted(closest[cluster] + found)[:nearest]
        if column is not None:
            index = read_index(run.corpus, shard, ["key", column])
            truth = dict(zip(index["key"].to_pylist(), index[column].to_pylist(), strict=True))
            for cluster, key in zip(clusters.tolist(), keys.tolist(), strict=True):
                if truth.get(key) is not None:
                    counts[cluster][truth[key]] += 1
    return [
        {
            "cluster": cluster,
            "size": int(sizes[cluster]),
            "distance": round(float(sums[cluster] / sizes[cluster]), 4) if sizes[cluster] else None,
            **_purity(counts[cluster]),
            "examples": [key for _, key in closest[cluster]],
        }
        for cluster in range(k)
    ]


def _first_of_each(
    clusters: np.ndarray, distances: np.ndarray, keys: np.ndarray, nearest: int
) -> Iterator[tuple[int, list[tuple[float, str]]]]:
    """Of every cluster that occurs: its `nearest` clips of one shard, as (distance, key)."""
    if not len(keys):
        return
    order = np.lexsort((keys.astype(str), distances, clusters))
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        chosen = order[start : min(stop, start + nearest)]
        yield int(clusters[order[start]]), list(zip(distances[chosen].tolist(), keys[chosen].tolist(), strict=True))


def _purity(counts: Counter[str]) -> dict[str, Any]:
    labelled = counts.total()
    if not labelled:
        return {"purity": None, "top": []}
    found = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP_LABELS]
    top = [{"label": name, "share": round(count / labelled, 4)} for name, count in found]
    return {"purity": top[0]["share"], "top": top}


def cross_table(run: Run, rows: Path, columns: Path, shape: tuple[int, int]) -> np.ndarray:
    """int64 `shape`: how many clips have which cluster in the one directory of pseudo-labels and which in the other."""
    counts = np.zeros(shape, np.int64)
    for shard in shard_names(run.corpus):
        ours, theirs = (
            read_parquet(directory / f"{shard}.parquet", "label", ["key", "cluster"]) for directory in (rows, columns)
        )
        both = ours.join(theirs, "key", right_suffix="_other", join_type="inner")
        np.add.at(counts, (both["cluster"].to_numpy(), both["cluster_other"].to_numpy()), 1)
    return counts
