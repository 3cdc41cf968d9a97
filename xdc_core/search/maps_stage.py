"""The maps stage: fit the maps for search, on clips to learn from alone. It is made when a search first needs it."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from shards.errors import ConfigError, StageError
from shards.store.build import Outcome
from shards.store.manifest import read_manifest
from shards.store.stage import Stage, Task
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import thread_count
from xdc_core.config.schema import Config, RunsOn
from xdc_core.config.selection import SelectSettings
from xdc_core.documents.maps import FILE_NAME as DOCUMENT
from xdc_core.documents.maps import MapsDocument, OwnSpace, SharedPair, write_maps_document
from xdc_core.runs.node import SHARD, Node, encoder_node
from xdc_core.runs.run import Run
from xdc_core.search.spaces import FILE_NAME, Map, write_maps

CLIPS = 50_000  # More take minutes longer and change little: 512 numbers of two modalities take 400 MB in float64.
RIDGE = 0.01  # Of a modality's own space: see docs/search.md.
FEWEST = 4  # Pairs, of which two are held out to choose the ridge.


@dataclass(frozen=True)
class Fitting:
    """The part of the configuration for the stage."""

    seed: int
    learn_splits: list[str] | None
    select: SelectSettings
    runs_on: RunsOn

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide the maps."""
        return {"seed": self.seed, "learn_splits": self.learn_splits, **self.select.hashed()}


def make_maps(task: Task[Fitting]) -> Outcome:
    """Write maps.npz and maps.json: a map of each modality into a space of its own, and of every two into a shared one.

    A modality's own space has standardised, whitened features. What two modalities share is found by the regularised
    canonical correlation analysis of the retrieval protocol. All are fitted to the clips in `corpus.learn_splits` that
    `select` keeps: to all, or to 50,000 of randomly chosen shards.

    Raises:
        ConfigError: there is no such clip.
        StageError: a feature is not finite.
    """
    from threadpoolctl import threadpool_limits

    from xdc_core.probes.cca import fit_whitening
    from xdc_core.search.sample import learnt_clips

    given = task.settings
    threadpool_limits(thread_count(given.runs_on))
    extracted = {str(node.modality): path for node, path in task.inputs.items() if node.stage == "extract"}
    seed = derive_seed(given.seed, "maps")
    learnt = learnt_clips(task.directory(SHARD), extracted, given.learn_splits, given.select, CLIPS, seed)
    maps: dict[tuple[str, str], Map] = {}
    own: dict[str, OwnSpace] = {}
    warnings: list[str] = []
    for name, directory in extracted.items():
        features = learnt.of(name)
        _check(task, name, features)
        standard, matrix = fit_whitening(features, RIDGE)
        if not standard.scale.any():
            warnings.append(f"all {name} features are the same: the encoder has collapsed, and every similarity is 0")
        maps[name, name] = _map(standard, matrix)
        manifest = read_manifest(directory)
        assert manifest is not None
        own[name] = OwnSpace(
            clips=len(features),
            width=features.shape[1],
            ridge=RIDGE,
            features=manifest.fingerprint,
            encoder=manifest.inputs.get(str(encoder_node(name, task.round))),
        )
    shared: list[SharedPair] = []
    for number, names in enumerate(pairs := list(itertools.combinations(extracted, 2))):
        task.progress(number, len(pairs), f"pairs of modalities, {' and '.join(names)}")
        pair, between = _shared(names, *learnt.pairs(*names), seed)
        shared.append(pair)
        maps |= between
        if between and not any(pair.correlations):
            warnings.append(f"{names[0]} and {names[1]} share nothing: search from one to the other is random")
    write_maps(task.out, maps)
    document = MapsDocument(
        round=task.round, splits=given.learn_splits, modalities=own, shared=shared, warnings=warnings
    )
    write_maps_document(task.out, document)
    return Outcome(len(learnt.sources), 0, {"warnings": len(warnings)}, (FILE_NAME, DOCUMENT))


def _check(task: Task[Fitting], name: str, features: np.ndarray) -> None:
    if not len(features):
        raise ConfigError(
            f"{task.node}: no clip in corpus.learn_splits ({task.settings.learn_splits}) that `select` keeps has a "
            f"feature of {name}. Check the column split of the corpus, and the rejects of extract.{name}."
        )
    if bad := int((~np.isfinite(features).all(axis=1)).sum()):
        raise StageError(
            f"{task.node}: {bad} of {len(features)} {name} features are not finite. The encoder has diverged: lower "
            "train.lr and run its training again."
        )


def _map(standard: Any, matrix: np.ndarray) -> Map:
    return Map(standard.mean.astype(np.float32), (standard.scale[:, None] * matrix).astype(np.float32))


def _shared(
    names: tuple[str, str], first: np.ndarray, second: np.ndarray, owners: np.ndarray, seed: int
) -> tuple[SharedPair, dict[tuple[str, str], Map]]:
    from xdc_core.probes.retrieval import choose_space

    if len(first) < FEWEST:
        why = f"{len(first)} clips to learn from have {names[0]} and {names[1]}; at least {FEWEST} are needed"
        pair = SharedPair(modalities=names, pairs=len(first), components=0, chosen={}, correlations=[], why=why)
        return pair, {}
    space, chosen = choose_space(first, second, owners, seed)
    pair = SharedPair(
        modalities=names,
        pairs=len(first),
        components=len(space.correlations),
        chosen=chosen,
        correlations=[round(float(value), 4) for value in space.correlations[:10]],
    )
    fitted = [_map(standard, matrix) for standard, matrix in zip(space.standards, space.maps, strict=True)]
    return pair, {names: fitted[0], names[::-1]: fitted[1]}


def maps_node(number: int) -> Node:
    """Return the node of a round's maps."""
    return Node("maps", None, number)


def _nodes(config: Config, number: int | None) -> list[Node]:
    return []  # Only a search needs it.


def _inputs(config: Config, node: Node) -> list[Node]:
    return [SHARD, *(Node("extract", name, node.round) for name in config.modalities)]


def _settings(config: Config, node: Node) -> Fitting:
    return Fitting(config.seed, config.corpus.learn_splits, config.select, config.runs_on)


MAPS: Stage[Config, Run, Fitting] = Stage(
    name="maps",
    version=1,
    summary="Fit the maps with which `xdc search` compares clips, in one modality and across modalities.",
    unit="clip",
    folder="maps",
    of=None,
    each_round=True,
    library="faiss",  # It needs none: this process is there already, for the index.
    modules=("xdc_core.probes.retrieval", "scipy.linalg"),
    nodes=_nodes,
    inputs=_inputs,
    settings=_settings,
    work=make_maps,
)
