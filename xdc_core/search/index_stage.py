"""The search stage: store the vectors of one space, or an approximate index of them. It is made when first needed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shards.corpus.index import shard_names
from shards.errors import ConfigError, StageError
from shards.store.build import Outcome
from shards.store.files import new_file
from shards.store.manifest import Manifest, read_manifest
from shards.store.stage import Stage, Task
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import limit_faiss
from xdc_core.config.schema import Config, RunsOn, SearchSettings
from xdc_core.data.features import source_keys, source_part, source_rows
from xdc_core.documents.search_index import FILE_NAME as DOCUMENT
from xdc_core.documents.search_index import SearchIndex, ShardRows, read_search_index, write_search_index
from xdc_core.runs.node import SHARD, Node, encoder_node
from xdc_core.runs.run import Run
from xdc_core.search.exact import Nearest, nearest, parts_of
from xdc_core.search.inverted import FILE_NAME as INVERTED
from xdc_core.search.inverted import QUERIES, build_inverted, search_inverted
from xdc_core.search.maps_stage import maps_node
from xdc_core.search.spaces import Map, Space, read_maps, space_named

FILE_NAME = "vectors.npy"


@dataclass(frozen=True)
class Indexing:
    """The part of the configuration for the stage."""

    seed: int
    search: SearchSettings
    runs_on: RunsOn

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide the index."""
        return {"seed": self.seed, **self.search.model_dump(mode="json")}


def make_index(task: Task[Indexing]) -> Outcome:
    """Write vectors.npy, float32 [clips, components], or above `search.exact_up_to` clips index.faiss; and index.json.

    The vectors are in the order of the features. Features are read shard by shard.

    Raises:
        ConfigError: there is no map into the space, because too few clips have both modalities.
        StageError: a feature is not finite.
    """
    given, space = task.settings, space_named(task.about)
    limit_faiss(given.runs_on)
    maps = read_maps(task.directory(maps_node(task.round)))
    if (space.of, space.by) not in maps:
        raise ConfigError(
            f"{task.node}: there is no map between {space.of} and {space.by}: too few clips that the run learns from "
            f"have both. Search by {space.of}, or choose more splits in corpus.learn_splits."
        )
    corpus, features = task.directory(SHARD), task.directory(Node("extract", space.of, task.round))
    sizes = {shard: source_rows([features], shard) for shard in shard_names(corpus)}
    count, own = sum(sizes.values()), maps[space.of, space.by]
    parts = partial(mapped_parts, features, list(sizes), own)
    approximate, kind, components = None, "flat", own.matrix.shape[1]
    if count > given.search.exact_up_to:
        seed = derive_seed(given.seed, "search", space.name)
        other = task.directory(Node("extract", space.by, task.round))
        queries, keys = _queries(other, list(sizes), maps[space.by, space.of], seed)
        own_rows = _rows(features, list(sizes), keys)
        approximate = build_inverted(
            task.out, parts, count, queries, own_rows, given.search.recall, seed, task.progress
        )
        kind = "ivf"
    else:
        _write_vectors(task, parts(), count, components)
    manifests = {node.stage: _manifest(path) for node, path in task.inputs.items() if node.stage != "shard"}
    extracted = _manifest(features)
    index = SearchIndex(
        kind=kind,
        clips=count,
        components=components,
        features=extracted.fingerprint,
        encoder=extracted.inputs.get(str(encoder_node(space.of, task.round))),
        maps=manifests["maps"].fingerprint,
        approximate=approximate,
        shards=[ShardRows(shard=shard, rows=rows) for shard, rows in sizes.items()],
    )
    write_search_index(task.out, index)
    summary = {"kind": kind} | ({"recall": approximate.recall} if approximate else {})
    return Outcome(count, 0, summary, (INVERTED if approximate else FILE_NAME, DOCUMENT))


def _manifest(directory: Path) -> Manifest:
    manifest = read_manifest(directory)
    assert manifest is not None  # An input that is finished has one.
    return manifest


def mapped_parts(features: Path, shards: Sequence[str], into: Map) -> Iterator[np.ndarray]:
    """Yield the vectors of each shard's features, float32 [rows, components].

    Raises:
        StageError: a file is missing or damaged, or a feature is not finite or of another width.
    """
    for shard in shards:
        _, (vectors,) = source_part([features], shard)
        yield into(vectors, f"{features}, shard {shard}: the features")


def _write_vectors(task: Task[Indexing], parts: Iterator[np.ndarray], count: int, components: int) -> None:
    with new_file(task.out / FILE_NAME) as temporary, temporary.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, components)}
        np.lib.format.write_array_header_1_0(file, header)
        done = 0
        for part in parts:
            file.write(np.ascontiguousarray(part, "<f4").tobytes())
            done += len(part)
            task.progress(done, count, "vectors")


def _queries(features: Path, shards: Sequence[str], into: Map, seed: int) -> tuple[np.ndarray, list[str]]:
    """Return the vectors of randomly chosen clips of a corpus, float32 [queries, components], and their keys."""
    rng, found, keys = np.random.default_rng(seed), list[np.ndarray](), list[str]()
    for number in rng.permutation(len(shards)).tolist():
        (part,) = mapped_parts(features, [shards[number]], into)
        chosen = rng.permutation(len(part))[: max(8, QUERIES // len(shards) + 1)]
        found.append(part[chosen])
        names = source_keys([features], shards[number])
        keys += [names[row] for row in chosen.tolist()]
        if len(keys) >= QUERIES:
            break
    return np.concatenate(found)[:QUERIES], keys[:QUERIES]


def _rows(features: Path, shards: Sequence[str], keys: Sequence[str]) -> np.ndarray:
    """Return the row of every one of these clips among the features of a corpus, int64; -1 without a feature."""
    row_of, first, wanted = dict[str, int](), 0, set(keys)
    for shard in shards:
        names = source_keys([features], shard)
        row_of |= {name: first + row for row, name in enumerate(names) if name in wanted}
        first += len(names)
    return np.array([row_of.get(key, -1) for key in keys], np.int64)


def search_index(directory: Path, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Nearest:
    """Return the nearest clips in a committed directory of this stage. Vectors are mapped from the disk.

    queries: float32 [queries, components]. allowed: which rows may be found, bool [clips]; None: all. The sha256 of the
    vectors is not checked: a search would take as long as reading all of them.

    Raises:
        StageError: a file is missing or damaged.
    """
    index = read_search_index(directory)
    if index.approximate is not None:
        return search_inverted(directory, index.approximate, queries, k, allowed)
    path = directory / FILE_NAME
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, FileNotFoundError) as error:
        raise StageError(f"{path} cannot be read ({error}). Rebuild it: xdc stage search --force") from error
    return nearest(parts_of(vectors), queries, k, allowed)


def index_node(space: Space, number: int) -> Node:
    """Return the node of the index of a space."""
    return Node("search", space.name, number)


def spaces_of(modalities: Sequence[str]) -> list[Space]:
    """Return all spaces of a run: each modality by itself, and by each other one."""
    return [Space(of, by) for of in modalities for by in sorted(modalities, key=lambda name: name != of)]


def _nodes(config: Config, number: int | None) -> list[Node]:
    return []  # Only a search needs it.


def _inputs(config: Config, node: Node) -> list[Node]:
    assert node.round is not None
    space = space_named(str(node.modality))
    features = dict.fromkeys((space.of, space.by))
    return [SHARD, maps_node(node.round), *(Node("extract", name, node.round) for name in features)]


def _settings(config: Config, node: Node) -> Indexing:
    return Indexing(config.seed, config.search, config.runs_on)


SEARCH: Stage[Config, Run, Indexing] = Stage(
    name="search",
    version=1,
    summary="Store the vectors, or an approximate index, in which `xdc search` finds clips.",
    unit="clip",
    folder="search",
    of="name",
    each_round=True,
    library="faiss",
    modules=("faiss",),
    nodes=_nodes,
    inputs=_inputs,
    settings=_settings,
    work=make_index,
    cleanable=(FILE_NAME, INVERTED),
)
