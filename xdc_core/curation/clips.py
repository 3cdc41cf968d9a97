"""The index rows of the clips that have features or clusters, and the clusters of a round."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shards.corpus.index import read_index, shard_names
from shards.errors import ConfigError, StageError
from shards.store.files import part_path
from shards.store.parquet import read_parquet

ABOUT = "xdc"  # The key, in a keep-list's metadata, of what it was made from, as JSON.


def index_rows(corpus: Path, columns: Sequence[str], keys: np.ndarray) -> pa.Table:
    """Return columns of the index of these clips, which are in the index's order.

    Raises:
        StageError: the corpus lacks a clip, or its index cannot be read.
    """
    wanted, parts = pa.array(keys.tolist(), pa.string()), []
    for shard in shard_names(corpus):
        part = read_index(corpus, shard, list(dict.fromkeys(["key", *columns])))
        parts.append(part.append_column("shard", pa.array([shard] * len(part), pa.string())))
    table = pa.concat_tables(parts) if parts else None
    if table is not None:
        table = table.filter(pc.is_in(table["key"], wanted))
    if table is None or table["key"].combine_chunks() != wanted:
        raise StageError(f"{corpus}: its clips are others than those with features. Run: xdc status RUN")
    return table.combine_chunks()


def read_assigned(corpus: Path, labels: Path) -> pa.Table:
    """Return key, cluster and distance of all clips from a directory of stage label, in the index's order.

    Raises:
        StageError: a file is missing or damaged.
    """
    shards = shard_names(corpus)
    parts = [read_parquet(part_path(labels, shard), "label", ["key", "cluster", "distance"]) for shard in shards]
    return pa.concat_tables(parts).combine_chunks()


def clusters_of(assigned: pa.Table, keys: np.ndarray) -> np.ndarray:
    """Return the cluster of every one of these clips, int64; -1 without one."""
    number = dict(zip(assigned["key"].to_pylist(), assigned["cluster"].to_pylist(), strict=True))
    return np.array([number.get(key, -1) for key in keys.tolist()], np.int64)


def distances_of(assigned: pa.Table, keys: np.ndarray) -> np.ndarray:
    """Return the distance of every one of these clips to its centroid, float32; infinity without a cluster."""
    distance = dict(zip(assigned["key"].to_pylist(), assigned["distance"].to_pylist(), strict=True))
    return np.array([distance.get(key, np.inf) for key in keys.tolist()], np.float32)


@dataclass(frozen=True)
class KeepList:
    """A keep-list, for some clips. kept: bool [clips]. compared: bool [clips], False for a clip without a feature.

    about: what `xdc duplicates` noted: run, round, modalities, features, corpus; {} if somebody else wrote the list.
    """

    kept: np.ndarray
    compared: np.ndarray
    about: dict[str, Any]


def read_keep_list(path: Path, needed: np.ndarray, keys: np.ndarray) -> KeepList:
    """Return what a keep-list says of the clips `keys`; a clip that is not in it counts as not compared.

    A keep-list is a Parquet file with the columns key and kept, as `xdc duplicates` writes it. kept is null for a clip
    that was not compared.

    Raises:
        ConfigError: it cannot be read, has no such columns, or lacks one of the clips `needed`.
    """
    try:
        # Not by `read_table`: that imports pandas, where it is installed.
        table = pq.ParquetFile(path).read(["key", "kept"])
        found = dict(zip(table["key"].to_pylist(), table["kept"].to_pylist(), strict=True))
        about = json.loads((table.schema.metadata or {}).get(ABOUT.encode(), b"{}"))
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a keep-list (Parquet, columns key and kept): {error}") from error
    if not isinstance(about, dict):
        raise ConfigError(f"{path}: {ABOUT!r} of its metadata is {about!r}, not what xdc duplicates writes.")
    if lacking := [key for key in needed.tolist() if key not in found]:
        raise ConfigError(
            f"{path} lacks {len(lacking)} of the run's clips, {lacking[0]} first: it is of other clips. Make one with "
            "xdc duplicates"
        )
    said = [found.get(key) for key in keys.tolist()]
    return KeepList(np.array([bool(value) for value in said]), np.array([value is not None for value in said]), about)
