"""A table of a round for viewers: features, places in a plane, clusters, labels and media of every clip."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shards.corpus.index import LATER, MEASURES, read_index, shard_names
from shards.progress import Progress, silent
from shards.store.files import part_path
from shards.store.parquet import read_parquet
from xdc_core.clustering.projection import FITTED, Method, Projection, fit_projection
from xdc_core.curation.clip_media import ClipMedia
from xdc_core.data.features import feature_width, read_features, source_rows

INDEX_COLUMNS = ("key", "source", "start_s", "duration_s", "split")


@dataclass(frozen=True)
class Mapped:
    """What a map shows. features, labels: directories by modality and by label source. method: of the projection."""

    corpus: Path
    features: Mapping[str, Path]
    labels: Mapping[str, Path]
    method: Method
    seed: int


def fitted_projections(mapped: Mapped, most: int = FITTED) -> dict[str, Projection]:
    """Return a projection of each modality, fitted to at most so many clips: equally many of each shard.

    Raises:
        ConfigError: as `fit_projection`.
        StageError: a file is missing or damaged.
    """
    shards, projections = shard_names(mapped.corpus), {}
    for name, directory in mapped.features.items():
        total = sum(source_rows([directory], shard) for shard in shards)
        step, sample = max(1, -(-total // most)), list[np.ndarray]()
        for shard in shards:
            sample.append(read_features(part_path(directory, shard))[1][::step])
        projections[name] = fit_projection(np.concatenate(sample), mapped.method, mapped.seed)
    return projections


def map_tables(
    mapped: Mapped,
    projections: Mapping[str, Projection],
    media: ClipMedia | None = None,
    progress: Progress = silent,
) -> Iterator[pa.Table]:
    """Yield a table for each shard, all of one schema: a row per clip, also of clips without a feature.

    Columns: key, source, start_s, duration_s, split, the labels and what was measured; per modality `feature_video`
    (fixed-size list of float32), `x_video` and `y_video`; per label source `cluster_video` and `distance_video`; and
    those of `media`. What a clip does not have is null.

    Raises:
        StageError: a file is missing or damaged.
    """
    shards = shard_names(mapped.corpus)
    for number, shard in enumerate(shards):
        index = read_index(mapped.corpus, shard)
        shown = [name for name in index.column_names if name in INDEX_COLUMNS or name.startswith("label")]
        columns: dict[str, Any] = {name: index[name] for name in shown}
        measured = [field for field in MEASURES if field in LATER and not pa.types.is_list(field.type)]
        for field in measured:
            there = field.name in index.column_names
            columns[field.name] = index[field.name] if there else pa.nulls(len(index), field.type)
        keys = index["key"].to_pylist()
        for name, directory in mapped.features.items():
            columns |= _feature_columns(name, part_path(directory, shard), keys, projections[name])
        for name, directory in mapped.labels.items():
            columns |= _cluster_columns(name, part_path(directory, shard), keys)
        if media is not None:
            columns |= media.columns(shard, index)
        progress(number + 1, len(shards), "shards written")
        yield pa.table(columns)


def _places(keys: Sequence[str], own: Sequence[str]) -> np.ndarray:
    """Return the row among `own` of every key, int64; -1 if it is not there."""
    row_of = {key: row for row, key in enumerate(own)}
    return np.array([row_of.get(key, -1) for key in keys], np.int64)


def _feature_columns(name: str, path: Path, keys: Sequence[str], projection: Projection) -> dict[str, pa.Array]:
    own, features = read_features(path)
    places = _places(keys, own.tolist())
    none = places < 0
    rows = np.zeros((len(keys), feature_width(path)), np.float32)
    rows[~none] = features[places[~none]]
    plane = np.zeros((len(keys), 2), np.float32)
    if len(features):
        plane[~none] = projection(rows[~none])
    mask = pa.array(none) if none.any() else None
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1], mask=mask)
    return {
        f"feature_{name}": lists,
        f"x_{name}": pa.array(plane[:, 0], mask=none),
        f"y_{name}": pa.array(plane[:, 1], mask=none),
    }


def _cluster_columns(name: str, path: Path, keys: Sequence[str]) -> dict[str, pa.Array]:
    table = read_parquet(path, "label", ["key", "cluster", "distance"])
    places = pa.array(_places(keys, table["key"].to_pylist()))
    places = pa.array(places.to_numpy(), mask=places.to_numpy() < 0)
    return {f"{column}_{name}": table[column].combine_chunks().take(places) for column in ("cluster", "distance")}
