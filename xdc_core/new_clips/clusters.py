"""Clusters to which new clips are assigned: those of a round of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.errors import ConfigError
from xdc_core.config.methods import clustered_from, clustered_sources
from xdc_core.new_clips.parts import committed
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


@dataclass(frozen=True)
class Clusters:
    """The clusters of one label source.

    modalities: of the features that were clustered, in this order; widths: of these features. fingerprint: of the stage
    that made them. round: of which they are.
    """

    source: str
    directory: Path
    fingerprint: str
    round: int
    modalities: tuple[str, ...]
    widths: tuple[int, ...]


def sources_of_run(run: Run) -> dict[str, tuple[str, ...]]:
    """Return the modalities of which each label source of a run is clustered, by source.

    Raises:
        ConfigError: its method makes no clusters.
    """
    sources = clustered_sources(run.config.method, run.config.modalities)
    if not sources:
        raise ConfigError(f"{run.root}: the method {run.config.method} makes no clusters. Give a run of another one.")
    return {source: clustered_from(source, run.config.modalities) for source in sources}


def fitting_sources(
    root: Path, sources: Mapping[str, tuple[str, ...]], modalities: Sequence[str], what: Path
) -> dict[str, tuple[str, ...]]:
    """Return those label sources whose clusters can be assigned to features of these modalities.

    root: whose sources. what: the features.

    Raises:
        ConfigError: there is none.
    """
    found = {source: needed for source, needed in sources.items() if set(needed) <= set(modalities)}
    if not found:
        source, needed = next(iter(sources.items()))
        there = " and ".join(modalities) or "no modality of it"
        raise ConfigError(
            f"{what}: there are features of {there}, and the {source} clusters of {root} are of {' and '.join(needed)} "
            "features. Give features of these."
        )
    return found


def clusters_of_run(run: Run, number: int, sources: Mapping[str, tuple[str, ...]]) -> list[Clusters]:
    """Return the clusters of a round, which are fresh.

    Raises:
        StageError: a directory has gone.
    """
    found = []
    for source, names in sources.items():
        directory = run.directory(Node("cluster", source, number))
        # The manifests of features stay where `xdc clean` removes their files.
        features = [committed(run.directory(Node("extract", name, number))) for name in names]
        widths = tuple(int(manifest.summary["width"]) for manifest in features)
        found.append(Clusters(source, directory, committed(directory).fingerprint, number, names, widths))
    return found
