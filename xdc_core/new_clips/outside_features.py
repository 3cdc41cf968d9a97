"""Features that somebody else has written, for new clips: where they lie, and the run that takes them over."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from shards.command import command
from shards.errors import ConfigError
from shards.store.files import write_text
from xdc_core.config.clustering import ClusterSettings
from xdc_core.config.load import FILE_NAME, parse_config
from xdc_core.config.methods import JOINT
from xdc_core.config.schema import RunsOn
from xdc_core.config.write import commented_yaml
from xdc_core.modalities.registry import MODALITIES
from xdc_core.new_clips.clusters import Clusters
from xdc_core.new_clips.encoders import EACH_CLUSTERS_ITS_OWN
from xdc_core.outside.tables import FEATURE, KEY, column_names, parquet_files
from xdc_core.runs.run import Run, open_run

NOTES = """The configuration of a run of features that somebody else has written: clips that get clusters.
{status} shows what is there. Paths are relative to this file."""


def outside_folders(path: Path, modalities: Sequence[str], modality: str | None) -> dict[str, Path]:
    """Return by modality where somebody else's features lie: one folder per modality in `path`, or `path` itself.

    {} if there are none. modalities: of the run. modality: of the features in `path`, if it was given. Every Parquet
    file that is then found must have features; whether it has is checked when it is read.

    Raises:
        ConfigError: the modality of the features is not known, or a file lies beside the folders of modalities.
    """
    if not _has_features(path):
        return {}
    inside = parquet_files(path)
    homes = {file.relative_to(path).parts[0] for file in inside if file.parent != path} if path.is_dir() else set()
    folders = {name: path / name for name in modalities if name in homes}
    if folders:
        beside = [file for file in inside if file.relative_to(path).parts[0] not in MODALITIES]
        if beside:
            raise ConfigError(
                f"{beside[0]} lies beside the folders of modalities ({', '.join(folders)}): of which modality its "
                "features are is not known. Move it into one of them, or elsewhere."
            )
        if modality is not None and modality not in folders:
            raise ConfigError(f"{path} has features of {' and '.join(folders)}, not of {modality}.")
        return {name: folder for name, folder in folders.items() if modality in (None, name)}
    if modality is None and len(modalities) > 1:
        raise ConfigError(
            f"{path}: say of which modality these features are: --modality {' or '.join(modalities)}. Features of "
            f"several modalities lie in folders with their names: {path}/{modalities[0]}"
        )
    return {modality or modalities[0]: path}


def _has_features(path: Path) -> bool:
    """Return whether a path is meant as features, and not as videos or a manifest of videos."""
    if path.is_file():
        return path.suffix == ".parquet" and (FEATURE in (names := column_names(path)) or "path" not in names)
    files = parquet_files(path)
    if any({KEY, FEATURE} <= {*column_names(file)} for file in files):
        return True
    # Files of another kind are videos. Without any, features were meant, and the error says what is wrong with them.
    return bool(files) and not any(
        found.is_file() and found.suffix != ".parquet" and not found.name.startswith(".") for found in path.rglob("*")
    )


def make_outside_run(root: Path, folders: Mapping[str, Path], clips_per_shard: int, runs_on: RunsOn) -> Run:
    """Write a run directory that takes features over from folders, by modality, or check that `root` is the same one.

    Every row that can be used counts, however many are rejected.

    Raises:
        ConfigError: `root` is another run.
    """
    if (root / FILE_NAME).exists():
        there = open_run(root)
        if there.features != {name: folder.resolve() for name, folder in folders.items()}:
            raise ConfigError(
                f"{root} has features of {', '.join(map(str, there.features.values())) or 'videos'}, not of "
                f"{', '.join(map(str, folders.values()))}. Choose another --out, or remove this directory."
            )
        return there
    k = ClusterSettings().k
    corpus = {
        "path": "corpus",
        "features": {name: os.path.relpath(folder.resolve(), root.resolve()) for name, folder in folders.items()},
        "clips_per_shard": clips_per_shard,
        "max_reject_share": 1.0,
    }
    values = {
        "method": EACH_CLUSTERS_ITS_OWN,
        "modalities": list(folders),
        "rounds": 0,
        "corpus": corpus,
        "cluster": {"k": {name: k.get(name, k[JOINT]) for name in folders}},
        "runs_on": runs_on.model_dump(mode="json") | {"nodes": 1, "rendezvous": None},
    }
    config = parse_config(values, "the settings of given features")
    write_text(root / FILE_NAME, commented_yaml(config, NOTES.format(status=command("xdc", "status", root))))
    return open_run(root)


def check_widths(widths: Mapping[str, int], folders: Mapping[str, Path], clusters: Clusters) -> None:
    """Raise ConfigError if features have another width than those of which clusters were made.

    widths: of the features in `folders`, by modality.
    """
    for name, wanted in zip(clusters.modalities, clusters.widths, strict=True):
        if widths[name] != wanted:
            raise ConfigError(
                f"{folders[name]}: the features are {widths[name]} wide, and the clusters are of {name} features that "
                f"are {wanted} wide. Give features by the encoder of which the clusters were made."
            )
