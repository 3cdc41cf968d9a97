"""The clips that are searched: their vectors, how they are compared, and what is found."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from shards.corpus.index import in_splits, label_columns, shard_names
from shards.errors import ConfigError
from xdc_core.data.features import source_part, source_rows
from xdc_core.documents.maps import MapsDocument, read_maps_document
from xdc_core.documents.search_index import read_search_index
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.search.clips import Features, describe
from xdc_core.search.exact import Nearest, nearest, without
from xdc_core.search.index_stage import index_node, mapped_parts, search_index
from xdc_core.search.maps_stage import maps_node
from xdc_core.search.measure import measure
from xdc_core.search.spaces import Map, Space, read_maps

# (vectors of queries, k, which rows may be found) -> the nearest.
Find = Callable[[np.ndarray, int, np.ndarray | None], Nearest]


@dataclass(frozen=True)
class Searched:
    """The clips of a run's corpus that are searched in a space.

    features: of these clips. into: maps a query's feature into the space. about: what is compared, as JSON values.
    """

    run: Run
    features: Features
    find: Find
    into: Map
    about: dict[str, Any]

    def allowed(self, split: str | None) -> np.ndarray | None:
        """Return which rows are of a split, bool [rows]; None: all.

        Raises:
            ConfigError: no clip is of this split.
        """
        if split is None:
            return None
        column = self.features.column("split")
        chosen = in_splits(pa.chunked_array([pa.array(column, pa.string())]), [split])
        if not chosen.any():
            there = ", ".join(sorted({str(value) for value in column if value})) or "none"
            raise ConfigError(f"no clip of {self.features.corpus} is of the split {split!r}. There are: {there}.")
        return chosen

    def search(self, feature: np.ndarray, key: str | None, k: int, split: str | None) -> list[dict[str, Any]]:
        """Return the k clips nearest to a query, nearest first, as JSON values.

        feature: float32 [1, width]. key: of the query, if it is a clip; it is not among the results.

        Raises:
            ConfigError: no clip is of the split.
            StageError: the feature has another width, or is not finite.
        """
        found = self.find(self.into(feature, "the query's features"), k + 1, self.allowed(split))
        found = without(found, np.array([self.features.row(key) if key else -1]), k)
        rows = found.rows[0].tolist()
        places = self.features.keys(rows)
        clips = describe(self.features.corpus, self.run.videos, list(places.values()))
        kept = [
            (places[row][1], similarity)
            for row, similarity in zip(rows, found.similarities[0].tolist(), strict=True)
            if row in places
        ]
        return [
            {"rank": rank, "similarity": round(similarity, 4), "key": key} | clips[key]
            for rank, (key, similarity) in enumerate(kept, start=1)
        ]

    def measure(self, queries: Features, split: str, among: str | None, k: int, across: bool) -> dict[str, Any]:
        """Search for every clip of a split among the clips of a split (None: the same one), and count what is found.

        queries: the features of the queries' modality, of the same corpus. Returns what `measure` does, at 1 and k.

        Raises:
            ConfigError: no clip is of a split.
            StageError: a file is missing or damaged.
        """
        rows, allowed = self.allowed(split), self.allowed(among or split)
        assert rows is not None
        assert allowed is not None
        keys = self.features.all_keys()
        place_of = {keys[row]: row for row in np.flatnonzero(rows).tolist()}
        vectors, own = list[np.ndarray](), list[int]()
        for shard in queries.sizes:
            names, (features,) = source_part([queries.directory], shard)
            chosen = [number for number, key in enumerate(names.tolist()) if key in place_of]
            vectors.append(self.into(features[chosen], f"{queries.directory}, shard {shard}: the features"))
            own += [place_of[names[number]] for number in chosen]
        at = sorted({1, k})
        found = self.find(np.concatenate(vectors), max(at) + 1, allowed)
        labels = {name: self.features.column(name) for name in label_columns(self.features.corpus)}
        return measure(found, np.array(own, np.int64), allowed, labels, at, across)


def features_at(run: Run, modality: str, number: int) -> Features:
    """Return the features of a round, which are finished."""
    directory = run.directory(Node("extract", modality, number))
    return Features(
        run.corpus, directory, {shard: source_rows([directory], shard) for shard in shard_names(run.corpus)}
    )


def search_run(run: Run, number: int, space: Space) -> Searched:
    """Return the clips of a run, with its stored index, which is finished."""
    directory = run.directory(index_node(space, number))
    index = read_search_index(directory)
    own = run.directory(Node("extract", space.of, number))
    features = Features(run.corpus, own, {row.shard: row.rows for row in index.shards})
    about: dict[str, Any] = {"index": index.kind, "clips": index.clips}
    if index.approximate is not None:
        about |= {"recall": index.approximate.recall, "recall_queries": index.approximate.queries}
    into = read_maps(run.directory(maps_node(number)))[space.by, space.of]
    return Searched(run, features, partial(search_index, directory), into, _about(run, number, space) | about)


def search_among(run: Run, number: int, space: Space, other: Run, there: int) -> Searched:
    """Return the clips of another run with features by the same encoders, compared in the space of `run`.

    there: the round of these features. They are read, and mapped, shard by shard.
    """
    features = features_at(other, space.of, there)
    maps = read_maps(run.directory(maps_node(number)))
    own, shards = maps[space.of, space.by], list(features.sizes)

    def find(queries: np.ndarray, k: int, allowed: np.ndarray | None) -> Nearest:
        return nearest(mapped_parts(features.directory, shards, own), queries, k, allowed)

    about = {"among": str(other.root), "index": "flat", "clips": sum(features.sizes.values())}
    return Searched(other, features, find, maps[space.by, space.of], _about(run, number, space) | about)


def _about(run: Run, number: int, space: Space) -> dict[str, Any]:
    document: MapsDocument = read_maps_document(run.directory(maps_node(number)))
    about: dict[str, Any] = {"run": str(run.root), "round": number, "by": space.by, "in": space.of}
    if (pair := document.between(space.of, space.by)) is not None:
        about["map"] = {"pairs": pair.pairs, "splits": document.splits, "correlations": pair.correlations}
    return about | {"warnings": list(document.warnings)}


def check_space(run: Run, number: int, space: Space) -> None:
    """Raise ConfigError if the maps of a round, which are finished, have none into this space."""
    pair = read_maps_document(run.directory(maps_node(number))).between(space.of, space.by)
    if space.of != space.by and (pair is None or pair.why):
        why = "the run has one modality" if pair is None else pair.why
        raise ConfigError(
            f"{run.root}: {space.of} cannot be found by {space.by}, because no map between them could be fitted: "
            f"{why}. Search by {space.of}, or choose more splits in corpus.learn_splits."
        )
