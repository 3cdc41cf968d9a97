"""The label stage: every clip's nearest centroid is its pseudo-label. Streams shard by shard."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.commit import write_json
from shards.errors import StageError
from shards.index import label_columns, read_index, read_parquet, shard_names, write_parquet
from shards.progress import Progress
from shards.stage import Outcome
from xdc_core.features import source_part
from xdc_core.preprocess import load_preprocess
from xdc_core.run import Node, Run
from xdc_core.scores import Contingency, agreement
from xdc_core.threads import limit_faiss


def label(run: Run, node: Node, out: Path, progress: Progress) -> Outcome:
    """Write `<shard>.parquet` with columns key, cluster (int32) and distance (float32, Euclidean, to its centroid).

    Rows are those of the features, in their order. scores.json holds sizes, empty clusters, and the agreement with
    the round before and with every label column of the corpus.
    """
    assert node.round is not None
    source = str(node.modality)
    clusters = run.directory(Node("cluster", source, node.round))
    centroids, preprocess = read_centroids(clusters), load_preprocess(clusters / "preprocess.npz")
    import faiss

    limit_faiss(run.config)
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    shards = shard_names(run.corpus)
    for done, shard in enumerate(shards, start=1):
        path = out / f"{shard}.parquet"
        if path.exists():
            continue
        keys, parts = source_part(run, node.round, source, shard)
        points = preprocess(parts)
        squared, nearest = index.search(points, 1) if len(points) else (np.empty((0, 1)), np.empty((0, 1), int))
        columns = {
            "key": pa.array(keys, pa.string()),
            "cluster": pa.array(nearest[:, 0], pa.int32()),
            "distance": pa.array(np.sqrt(np.maximum(squared[:, 0], 0)), pa.float32()),
        }
        write_parquet(path, pa.table(columns))
        progress(done, len(shards), "shards labelled")
    scores = score(run, node, out, len(centroids))
    write_json(out / "scores.json", scores)
    rows = sum(pq.read_metadata(out / f"{shard}.parquet").num_rows for shard in shards)
    return Outcome(rows, 0, {name: value for name, value in scores.items() if name != "sizes"})


def read_centroids(clusters: Path) -> np.ndarray:
    """float32 [k, components]. Raises StageError where the file is missing or damaged."""
    try:
        return np.load(clusters / "centroids.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StageError(
            f"{clusters}/centroids.npy cannot be read ({error}). Run: xdc stage cluster --force"
        ) from error


def read_labels(directory: Path, shard: str) -> tuple[np.ndarray, np.ndarray]:
    """Keys, object [clips], and clusters, int32 [clips], of one shard."""
    table = read_parquet(directory / f"{shard}.parquet", "label", ["key", "cluster"])
    return table["key"].to_numpy(), table["cluster"].to_numpy()


def score(run: Run, node: Node, directory: Path, k: int) -> dict[str, Any]:
    """Sizes, and the agreement with the round before and with the corpus's labels; reads the shards again."""
    names = label_columns(run.corpus)
    with_labels = {name: Contingency() for name in names}
    with_before = Contingency()
    sizes = np.zeros(k, np.int64)
    before = run.directory(Node("label", node.modality, node.round - 1)) if node.round else None
    for shard in shard_names(run.corpus):
        keys, clusters = read_labels(directory, shard)
        sizes += np.bincount(clusters, minlength=k)
        index = read_index(run.corpus, shard, ["key", *names])
        place = {key: row for row, key in enumerate(index["key"].to_pylist())}
        rows = [place[key] for key in keys]
        for name in names:
            column = index[name].to_pylist()
            with_labels[name].add(clusters, [column[row] for row in rows])
        if before is not None:
            earlier = dict(zip(*(values.tolist() for values in read_labels(before, shard)), strict=True))
            with_before.add(clusters, [str(earlier[key]) if key in earlier else None for key in keys])
    return {
        "k": k,
        "clips": int(sizes.sum()),
        "empty": int((sizes == 0).sum()),
        "largest": int(sizes.max()),
        "largest_share": round(float(sizes.max() / max(1, sizes.sum())), 6),
        "nmi_previous": agreement(with_before)["nmi"] if before is not None else None,
        "labels": {name: agreement(counts) for name, counts in with_labels.items()},
        "sizes": sizes.tolist(),
    }
