"""The clips of every cluster, as files that the page of a round loads when they are asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.corpus.index import label_columns, read_index, shard_names
from shards.store.files import part_path, write_text
from shards.store.parquet import count_rows, read_parquet
from xdc_core.report.tables.cross import labelled_shards
from xdc_core.report.tables.embedded import embedded

FOLDER = "clusters"
# Clips in all files of a label source; of a larger corpus each cluster has those nearest its centroid.
LISTED = 100_000
LEAST = 20  # Clips per cluster, however many clusters there are.


@dataclass(frozen=True)
class Labelled:
    """The pseudo-labels of a label source. labels, before: of this round and of the round before, if it has some.
    k: clusters.
    """

    labels: Path
    before: Path | None
    k: int


def listed_per_cluster(clips: int, k: int) -> int:
    """Return how many clips the file of a cluster has at most: all of them where the corpus has no more than LISTED."""
    return clips if clips <= LISTED else max(LEAST, LISTED // k)


def write_members(corpus: Path, sources: Mapping[str, Labelled], out: Path) -> None:
    """Write a file per cluster, `<label source>-<cluster>.js`, into the folder `clusters` of `out`.

    Pages that are opened from disk cannot read data files, but can load scripts: a file calls `clusterClips` with the
    label source, the cluster, and {files: names of sources, rows}. A row is [key, position in `files`, start in
    seconds, duration in seconds, distance to the centroid, first label, cluster in the round before, cluster in each
    other label source], the nearest first. What is not known is None. Memory does not grow with the corpus.

    Raises:
        StageError: a file is missing or damaged.
    """
    (out / FOLDER).mkdir(exist_ok=True)
    for name, source in sources.items():
        others = [sources[other].labels for other in sources if other != name]
        for cluster, rows in enumerate(_rows(corpus, source, others)):
            files: dict[str, int] = {}
            numbered = [[key, files.setdefault(file, len(files)), *rest] for _, key, file, *rest in rows]
            content = embedded({"files": list(files), "rows": numbered})
            write_text(out / FOLDER / f"{name}-{cluster}.js", f"clusterClips({embedded(name)},{cluster},{content});\n")


def _rows(corpus: Path, source: Labelled, others: list[Path]) -> list[list[tuple[Any, ...]]]:
    """Return for each cluster its nearest clips: (exact distance, key, file, start, ...)."""
    column, shards = next(iter(label_columns(corpus)), None), shard_names(corpus)
    clips_in_all = sum(count_rows(part_path(source.labels, shard), "label") for shard in shards)
    most = listed_per_cluster(clips_in_all, source.k)
    rows: list[list[tuple[Any, ...]]] = [[] for _ in range(source.k)]
    farthest = np.full(source.k, np.inf)  # Of the clips that are kept; others can only be nearer.
    # A shard that was added to the corpus since has no labels of the round before.
    compared = set() if source.before is None else {*labelled_shards(corpus, source.before)}
    for shard in shards:
        table = read_parquet(part_path(source.labels, shard), "label", ["key", "cluster", "distance"])
        table = table.filter(pa.array(table["distance"].to_numpy() <= farthest[table["cluster"].to_numpy()]))
        index = read_index(corpus, shard, ["key", "source", "start_s", "duration_s", *([column] if column else [])])
        index = index.filter(pc.is_in(index["key"], table["key"].combine_chunks()))
        clips = {row["key"]: row for row in index.to_pylist()}
        earlier = source.before if shard in compared else None
        elsewhere = [_clusters(directory, shard) for directory in (earlier, *others)]
        for found in table.to_pylist():
            key, distance = found["key"], found["distance"]
            if (row := clips.get(key)) is None:
                continue  # Its video was removed from the corpus since.
            times = (round(row["start_s"], 2), round(row["duration_s"], 2))
            label = row[column] if column else None
            own = (distance, key, row["source"], *times, round(distance, 4), label)
            rows[found["cluster"]].append((*own, *(clusters.get(key) for clusters in elsewhere)))
        for cluster in {*table["cluster"].to_pylist()}:
            # Keys are unique, so that nothing behind them is compared.
            rows[cluster] = sorted(rows[cluster])[:most]
            if rows[cluster] and len(rows[cluster]) == most:
                farthest[cluster] = rows[cluster][-1][0]
    return rows


def _clusters(directory: Path | None, shard: str) -> dict[str, int]:
    """Return the clusters of a shard's clips by key; {} without a directory."""
    if directory is None:
        return {}
    table = read_parquet(part_path(directory, shard), "label", ["key", "cluster"])
    return dict(zip(table["key"].to_pylist(), table["cluster"].to_pylist(), strict=True))
