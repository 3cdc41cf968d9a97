"""The features that are assigned to a run's clusters: of a run, or in files of somebody else."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from shards.errors import ConfigError, StageError
from shards.store.files import sha256_of
from shards.store.manifest import Manifest, read_manifest
from xdc_core.config.load import FILE_NAME
from xdc_core.config.methods import clustered_from, clustered_sources
from xdc_core.graph.stages import settings_of
from xdc_core.new_clips.assignment import Parts
from xdc_core.new_clips.encoders import ENCODER
from xdc_core.new_clips.outside_features import feature_files
from xdc_core.runs.node import FOLDERS, Node, encoder_node
from xdc_core.runs.run import Run
from xdc_core.stages.init import WEIGHTS


def assigned_sources(run: Run, modalities: Sequence[str], what: str) -> tuple[str, ...]:
    """Return the label sources of a run whose clusters can be assigned to features of these modalities.

    what: the features, in an error's words.

    Raises:
        ConfigError: there is none.
    """
    sources = clustered_sources(run.config.method, run.config.modalities)
    if not sources:
        raise ConfigError(
            f"{run.root}: the method {run.config.method} makes no clusters. Give a run of another method."
        )
    found = tuple(each for each in sources if set(clustered_from(each, run.config.modalities)) <= set(modalities))
    if not found:
        needed = " and ".join(clustered_from(sources[0], run.config.modalities))
        raise ConfigError(
            f"{what}: there are features of {' and '.join(modalities)}, and the {sources[0]} clusters of {run.root} "
            f"are of {needed} features. Give features of these."
        )
    return found


def run_of_features(path: Path) -> tuple[Path, str | None]:
    """Return the run's directory of a path, and the modality if the path is that of its features of one modality.

    A path that is neither is returned as it is.
    """
    parents = path.resolve().parents
    if path.parent.name == FOLDERS["extract"] and len(parents) > 3 and (parents[3] / FILE_NAME).exists():
        return parents[3], path.name
    return path, None


def same_encoders(run: Run, number: int, other: Run, modalities: Sequence[str]) -> int:
    """Return the round of another run whose features are by the encoders with which a round of `run` begins.

    Raises:
        ConfigError: there is none, or its features are computed with other settings.
    """
    if other.root.resolve() == run.root.resolve():
        return number
    wanted = {name: _digests(run, name, number) for name in modalities}
    for there in range(other.config.last_round, -1, -1):
        if all(wanted[name] & _digests(other, name, there) for name in modalities):
            _check_settings(run, number, other, there, modalities)
            return there
    names = " and ".join(modalities)
    raise ConfigError(
        f"{other.root} has no features by the {names} encoders of which the clusters of round {number} of {run.root} "
        f"were made. Compute them: xdc embed {run.root} VIDEOS --round {number} --out DIR"
    )


def _digests(run: Run, modality: str, number: int) -> set[str]:
    """Return the sha256 of the encoder with which a round begins, and of the file of weights from which it was made."""
    manifest = read_manifest(run.directory(encoder_node(modality, number)))
    if manifest is None:
        return set()
    weights = manifest.inputs.get(WEIGHTS)
    return {manifest.files[ENCODER].sha256} | ({weights} if weights else set())


def _check_settings(run: Run, number: int, other: Run, there: int, modalities: Sequence[str]) -> None:
    """Raise ConfigError if two runs compute features with other settings."""
    for name in modalities:
        wanted = settings_of(run.config, Node("extract", name, number))
        found = settings_of(other.config, Node("extract", name, there))
        for setting in dict.fromkeys((*wanted, *found)):
            if wanted.get(setting) != found.get(setting):
                raise ConfigError(
                    f"{other.root}: the {name} features were computed with {setting} {found.get(setting)}, and those "
                    f"of {run.root} with {wanted.get(setting)}. Compute them with its settings: xdc embed"
                )


def parts_of_run(run: Run, number: int, modalities: Sequence[str], widths: Sequence[int]) -> Parts:
    """Return the features of a round of a run, which are fresh. widths: that the clusters need.

    Raises:
        StageError: they have gone, or are not of the same shards.
    """
    directories = [run.directory(Node("extract", name, number)) for name in modalities]
    manifests = [committed(directory) for directory in directories]
    shards = [sorted(Path(name).stem for name in found.files if name.endswith(".parquet")) for found in manifests]
    if any(names != shards[0] for names in shards):
        raise StageError(
            f"{run.root}: the features of {' and '.join(modalities)} are of different shards. Run this again."
        )
    files = {shard: tuple(directory / f"{shard}.parquet" for directory in directories) for shard in shards[0]}
    inputs = {f"extract.{name}": found.fingerprint for name, found in zip(modalities, manifests, strict=True)}
    return Parts(tuple(modalities), files, tuple(widths), inputs)


def outside_parts(folders: Mapping[str, Path], widths: Sequence[int]) -> Parts:
    """Return features in Parquet files of somebody else, by modality. widths: that the clusters need.

    Raises:
        ConfigError: the folders have different files.
    """
    found = {name: feature_files(path) for name, path in folders.items()}
    names = {name: [path.name for path in files] for name, files in found.items()}
    first, *others = names
    for other in others:
        if names[other] != names[first]:
            raise ConfigError(
                f"{folders[first]} and {folders[other]} have different files. The features of both modalities must lie "
                "in files of the same names, with the same clips."
            )
    files = {f"{number:06d}": tuple(paths) for number, paths in enumerate(zip(*found.values(), strict=True))}
    digests = {name: [sha256_of(path) for path in paths] for name, paths in found.items()}
    inputs = {f"features.{name}": "+".join(values) for name, values in digests.items()}
    return Parts(tuple(folders), files, tuple(widths), inputs, outside=True)


def outside_folders(path: Path, modalities: Sequence[str], modality: str | None) -> dict[str, Path]:
    """Return by modality where somebody else's features lie: one folder per modality in `path`, or `path` itself.

    {} if there are none. modalities: of the run. modality: of the features in `path`, if it was given.

    Raises:
        ConfigError: the modality of the features is not known.
    """
    folders = {name: path / name for name in modalities if path.is_dir() and feature_files(path / name)}
    if folders:
        return {name: folder for name, folder in folders.items() if modality in (None, name)}
    if not feature_files(path):
        return {}
    if modality is None and len(modalities) > 1:
        raise ConfigError(
            f"{path}: say of which modality these features are: --modality {' or '.join(modalities)}. Features of "
            f"several modalities lie in folders with their names: {path}/{modalities[0]}"
        )
    return {modality or modalities[0]: path}


def width_of_features(run: Run, modality: str, number: int) -> int:
    """Return the width of the features of which a round's clusters were made, from their manifest, which is never
    removed.

    Raises:
        StageError: it is missing.
    """
    return int(committed(run.directory(Node("extract", modality, number))).summary["width"])


def committed(directory: Path) -> Manifest:
    """Return the manifest of a committed directory. Raises StageError if there is none."""
    manifest = read_manifest(directory)
    if manifest is None:
        raise StageError(f"{directory} is gone: another process has replaced or removed it. Run this again.")
    return manifest
