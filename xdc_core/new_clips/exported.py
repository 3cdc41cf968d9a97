"""Encoders and clusters of an export, for new clips."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.errors import ConfigError
from xdc_core.config.load import FILE_NAME
from xdc_core.exports.config import (
    AGAIN,
    CLUSTERS,
    CONFIG,
    JOINT,
    WEIGHTS,
    ExportConfig,
    ExportedClusters,
    JointConfig,
    check_clusters,
    check_sha256,
    encoder_folders,
    parse_config,
    read_config,
)
from xdc_core.modalities.video import VIDEO
from xdc_core.new_clips.clusters import Clusters
from xdc_core.new_clips.encoders import EACH_CLUSTERS_ITS_OWN, Encoders, for_modalities

# The exported encoders in a folder, by modality: where each lies, and its config.json.
Exported = Mapping[str, tuple[Path, ExportConfig]]


def read_exports(path: Path) -> Exported:
    """Return the exported encoders in a folder: that of an export, or that of one encoder in it. {} for others.

    Raises:
        ConfigError: a config.json is damaged, or of another version.
    """
    if (path / FILE_NAME).exists():
        return {}
    if (path / CONFIG).is_file() and path.name != JOINT:
        found = [read_config(path)]
    else:
        found = [read_config(folder) for folder in encoder_folders(path)]
    return {config.modality: (folder, config) for folder, config in found}


def encoders_of_export(path: Path, exported: Exported, modalities: Sequence[str], number: int | None) -> Encoders:
    """Return exported encoders of these modalities. number: the round that was asked for; None: that of the export.

    Raises:
        ConfigError: the export is of another round, a file of weights is damaged, or the encoders are for clips that
            were cut with different settings.
    """
    chosen = {name: exported[name] for name in modalities}
    first = next(iter(chosen.values()))[1]
    for name, (folder, config) in chosen.items():
        check_sha256(folder / WEIGHTS, config.sha256)
        if number is not None and number != config.round:
            raise ConfigError(f"{folder} has the encoder at the start of round {config.round} only. Leave --round out.")
        if (config.clips, config.round, config.video_frames) != (first.clips, first.round, first.video_frames):
            raise ConfigError(
                f"{path}: the encoders of {first.modality} and {name} are of different exports. Use one of them: "
                f"--modality {name}"
            )
    values: dict[str, Any] = {"method": EACH_CLUSTERS_ITS_OWN, "modalities": list(modalities), "rounds": 0}
    if VIDEO.name not in modalities:
        values[VIDEO.name] = {"frames": first.video_frames}
    values |= {name: config.view | {"encoder": config.encoder} for name, (_, config) in chosen.items()}
    values["extract"] = dict(first.extract)
    values["corpus"] = for_modalities(first.corpus_settings, modalities)
    files = {name: folder / WEIGHTS for name, (folder, _) in chosen.items()}
    return Encoders(first.round, values, files, f"the exported encoders in {path}")


def sources_of_export(path: Path, exported: Exported) -> dict[str, tuple[str, ...]]:
    """Return the modalities of which each label source with exported clusters is clustered, by source.

    Raises:
        ConfigError: there are no clusters; the text says why.
    """
    found: dict[str, tuple[str, ...]] = {name: (name,) for name, (_, config) in exported.items() if config.clusters}
    if joint := _joint(path):
        found[JOINT] = tuple(joint.clusters.modalities)
    if not found:
        why = "; ".join(f"{name}: {config.without_clusters}" for name, (_, config) in exported.items())
        raise ConfigError(f"{path} has no clusters, so nothing can be assigned to them. {why}")
    return found


def clusters_of_export(path: Path, exported: Exported, sources: Mapping[str, tuple[str, ...]]) -> list[Clusters]:
    """Return exported clusters of these label sources.

    Raises:
        ConfigError: joint clusters are of other encoders than lie beside them, or a file is not the one that was
            exported.
    """
    found = []
    for source, names in sources.items():
        joint = _joint(path) if source == JOINT else None
        if joint is not None:
            for name in names:
                if name not in exported or exported[name][1].sha256 != joint.encoders[name]:
                    raise ConfigError(f"{path / JOINT}: its clusters are of another {name} encoder. {AGAIN}")
        folder = path / JOINT if joint else exported[source][0]
        about = joint.clusters if joint else exported[source][1].clusters
        assert isinstance(about, ExportedClusters)  # `sources_of_export` has found them.
        widths = tuple(exported[name][1].width for name in names)
        check_clusters(folder / CLUSTERS, about)
        found.append(Clusters(source, folder / CLUSTERS, about.identity, about.round, names, widths))
    return found


def _joint(path: Path) -> JointConfig | None:
    """Return the description of an export's joint clusters, if it has some."""
    file = path / JOINT / CONFIG
    return parse_config(JointConfig, file) if file.is_file() else None
