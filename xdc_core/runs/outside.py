"""The files outside a run from which its first encoders are made, and their digests, which enter fingerprints."""

from functools import lru_cache
from pathlib import Path

from shards.errors import ConfigError
from shards.store.files import sha256_of
from shards.store.manifest import fingerprint, read_manifest
from xdc_core.config.load import FILE_NAME
from xdc_core.config.views import views_of
from xdc_core.encoders.hub import fetch, hub_commit
from xdc_core.encoders.registry import encoder_spec, outside, source_file
from xdc_core.encoders.transformers_files import (
    is_transformers,
    misfits,
    model_files,
    model_folder,
)
from xdc_core.modalities.view import Views
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

# Names of the files outside the run, as in manifests.
WEIGHTS = "weights"
SOURCE = "the encoder's source"


def weights_read(run: Run, node: Node) -> dict[str, str]:
    """Return the sha256 of the configured file of weights; empty without one.

    Raises:
        ConfigError: the file is missing, or cannot be read.
    """
    path = run.weights(str(node.modality))
    if path is None:
        return {}
    try:
        return {WEIGHTS: _digest(path)}
    except OSError as error:
        raise ConfigError(
            f"{node.modality}.weights: {path} cannot be read ({error.strerror}). Put the file there, correct the "
            f"path in {run.root}/{FILE_NAME} (it is relative to that file), or set it to null for random weights."
        ) from None


def source_read(run: Run, node: Node) -> dict[str, str]:
    """Return a digest of what an encoder outside xdc is made from: of the file with its function, or of its model.

    Raises:
        ConfigError: the encoder is unknown, or there is no such file, or the model does not fit the run's views.
    """
    modality = str(node.modality)
    name = getattr(run.config, modality).encoder
    if not outside(name):
        return {}
    if is_transformers(name):
        # A file of weights written by xdc has the architecture, too.
        return {} if run.weights(modality) else {SOURCE: _model_digest(run, node, name)}
    return {SOURCE: _digest(source_file(encoder_spec(name, modality)))}


def _model_digest(run: Run, node: Node, name: str) -> str:
    """Return the digest of a folder's files, or the commit of a model on the hub.

    Once the first encoder is made, nothing else is read from the model: if the folder is gone, or the hub has a newer
    commit, the digest is that of which the encoder was made.
    """
    manifest = read_manifest(run.directory(node))
    view = manifest.settings.get("view", {}) if manifest else {}
    known = manifest.inputs.get(SOURCE) if manifest and view.get("encoder") == name else None
    folder = model_folder(name, run.root)
    if folder is None:
        return known or hub_commit(name)
    if not folder.is_dir():
        if known is not None:
            return known
        raise ConfigError(
            f"{node.modality}.encoder: {folder} does not exist. Correct the path in {run.root}/{FILE_NAME} (it is "
            "relative to that file)."
        )
    check_fit(name, folder, views_of(run.config, str(node.modality)), run.config.corpus.sample_rate)
    return fingerprint([[path.name, _digest(path)] for path in model_files(folder)])


def folder_of_model(name: str, root: Path, digest: str, views: Views, sample_rate: int) -> Path:
    """Return the folder with the files of a model of transformers, downloaded if need be.

    root: the run's directory. digest: of the model, as `source_read` returned it. sample_rate: of the corpus, in Hz.

    Raises:
        ConfigError: the model is not there and cannot be fetched, or does not fit the views.
    """
    folder = model_folder(name, root) or fetch(name, digest)
    check_fit(name, folder, views, sample_rate)
    return folder


def check_fit(name: str, folder: Path, views: Views, sample_rate: int) -> None:
    """Raise ConfigError if views are not the input of the model in a folder; the text has the right values."""
    lines = misfits(folder, views.modality.name, views.settings.model_dump(), sample_rate)
    if lines:
        raise ConfigError("\n  ".join([f"{views.modality.name}.encoder: the model {name} needs other input:", *lines]))


def _digest(path: Path) -> str:
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Return the digest of a file, read once per process as long as size and time stay the same."""
    return sha256_of(path)
