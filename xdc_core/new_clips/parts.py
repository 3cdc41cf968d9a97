"""The features that are assigned to a run's clusters: those of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.errors import ConfigError, StageError
from shards.store.manifest import Manifest, read_manifest
from xdc_core.config.load import FILE_NAME
from xdc_core.graph.stages import settings_of
from xdc_core.new_clips.encoders import ENCODER, Encoders, imported_weights
from xdc_core.runs.node import FOLDERS, Node, encoder_node
from xdc_core.runs.run import Run


@dataclass(frozen=True)
class Parts:
    """Features to assign, in files: one per shard and modality.

    files: shard -> the files of all modalities, in the order of the clusters' modalities. inputs: what they are, by
    name, for the fingerprint. clips: how many the corpus has. rejects: how many files, rows or clips it lacks, which
    are listed in the directory `corpus`.
    """

    files: dict[str, tuple[Path, ...]]
    inputs: dict[str, str]
    clips: int
    rejects: int
    corpus: Path


def run_of_features(path: Path) -> tuple[Path, str | None]:
    """Return the run's directory of a path, and the modality if the path is that of its features of one modality.

    A path that is neither is returned as it is.
    """
    parents = path.resolve().parents
    if path.parent.name == FOLDERS["extract"] and len(parents) > 3 and (parents[3] / FILE_NAME).exists():
        return parents[3], path.name
    return path, None


def same_encoders(encoders: Encoders, run: Run, modalities: Sequence[str], purpose: str = "") -> int:
    """Return the round of a run whose features of these modalities are by given encoders.

    purpose: what the encoders are, or are for, in an error's words.

    Raises:
        ConfigError: there is none, or its features are computed with other settings.
    """
    wanted = {name: encoders.digests(name) for name in modalities}
    for number in range(run.config.last_round, -1, -1):
        if all(wanted[name] & _digests(run, name, number) for name in modalities):
            _check_settings(encoders, run, number, modalities)
            return number
    raise ConfigError(
        f"{run.root} has no features of {' and '.join(modalities)} by {encoders.about}{purpose}. Compute them with "
        "xdc embed."
    )


def _digests(run: Run, modality: str, number: int) -> set[str]:
    """Return the sha256 of the encoder with which a round begins, and of the file of weights from which it was read."""
    manifest = read_manifest(run.directory(encoder_node(modality, number)))
    if manifest is None:
        return set()
    imported = imported_weights(run, modality, number)
    return {manifest.files[ENCODER].sha256} | ({imported} if imported else set())


def _check_settings(encoders: Encoders, run: Run, number: int, modalities: Sequence[str]) -> None:
    """Raise ConfigError if a run computes features with other settings than are those of the encoders."""
    for name in modalities:
        wanted = settings_of(encoders.config, Node("extract", name, 0))
        found = settings_of(run.config, Node("extract", name, number))
        for setting in dict.fromkeys((*wanted, *found)):
            if wanted.get(setting) != found.get(setting):
                raise ConfigError(
                    f"{run.root}: the {name} features were computed with {setting} {found.get(setting)}, and for "
                    f"{encoders.about} it is {wanted.get(setting)}. Compute them with these settings: xdc embed"
                )


def parts_of_run(run: Run, number: int, modalities: Sequence[str]) -> Parts:
    """Return the features of a round of a run, which are fresh.

    Raises:
        StageError: they have gone, or are not of the same shards.
    """
    directories = [run.directory(Node("extract", name, number)) for name in modalities]
    manifests = [committed(directory) for directory in directories]
    found = [
        {Path(name).stem: directory / name for name in manifest.files if name.endswith(".parquet")}
        for directory, manifest in zip(directories, manifests, strict=True)
    ]
    if any(files.keys() != found[0].keys() for files in found):
        raise StageError(f"{run.root}: the features of {' and '.join(modalities)} are of other shards. Run this again.")
    files = {shard: tuple(own[shard] for own in found) for shard in sorted(found[0])}
    inputs = {f"extract.{name}": manifest.fingerprint for name, manifest in zip(modalities, manifests, strict=True)}
    corpus = committed(run.corpus)
    return Parts(files, inputs, corpus.rows, corpus.rejects, run.corpus)


def committed(directory: Path) -> Manifest:
    """Return the manifest of a committed directory. Raises StageError if there is none."""
    manifest = read_manifest(directory)
    if manifest is None:
        raise StageError(f"{directory} is gone: another process has replaced or removed it. Run this again.")
    return manifest
