"""The directories of clips of a run: its corpus, and the data sets to evaluate on."""

from pathlib import Path
from typing import Any

from shards.settings import CorpusSettings, clip_part, is_url, stored_part
from shards.store.manifest import read_manifest
from xdc_core.config.load import FILE_NAME
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, dataset_settings


def is_corpus(node: Node) -> bool:
    """Return whether a node's directory contains clips: the corpus, or a data set to evaluate on."""
    return node.stage in ("shard", "data")


def stored_from(run: Run, node: Node) -> tuple[Path, Path | None, CorpusSettings]:
    """Return for a directory of clips its path, its source files, and its settings."""
    if node == SHARD:
        return run.corpus, run.videos, run.config.corpus
    name = str(node.modality)
    return run.directory(node), run.dataset_root(name), dataset_settings(run.config, name)


def clips_of(corpus: Path) -> dict[str, Any]:
    """Return the settings that decide the clips of a finished directory, by its manifest; {} without one."""
    manifest = read_manifest(corpus)
    return clip_part(manifest.settings) if manifest else {}


def cut_settings(corpus: Path, settings: CorpusSettings) -> CorpusSettings:
    """Return a run's settings of its corpus, those that decide a clip replaced by those with which it was cut.

    corpus: the directory. A run that shares a corpus (without `corpus.videos`) may say something else in its xdc.yaml,
    where it has no effect. Without a manifest the run's settings are returned.
    """
    if not (clips := clips_of(corpus)):
        return settings
    # What a manifest lacks had its default (see `Since`).
    defaults = CorpusSettings().model_dump(mode="json")
    absent = {name: defaults[name] for name in clip_part(stored_part(settings)) if name not in clips}
    return CorpusSettings.model_validate(settings.model_dump(mode="json") | absent | clips)


def lost_corpus(run: Run, node: Node = SHARD) -> str | None:
    """Return why a directory of clips can neither be read nor built (its sources are missing, too); else None."""
    directory, sources, settings = stored_from(run, node)
    if node == SHARD and run.features:
        gone = [name for name, folder in run.features.items() if not folder.exists()]
        if not gone or read_manifest(directory) is not None:
            return None
        return (
            f"corpus.features.{gone[0]}: {run.features[gone[0]]} does not exist, and {directory} holds no finished "
            f"corpus ({run.root / FILE_NAME}; paths are relative to that file). Correct one of them."
        )
    if node == SHARD and is_url(settings.path):
        return None
    if read_manifest(directory) is not None or (sources is not None and sources.exists()):
        return None
    path, files = ("corpus.path", "corpus.videos") if node == SHARD else (str(node), f"datasets.{node.modality}.root")
    state = "holds no finished corpus" if directory.exists() else "is missing"
    cause = f"{files} is not set" if sources is None else f"{files}, {sources}, is missing, too"
    return (
        f"{path}: {directory} {state}, and {cause} ({run.root / FILE_NAME}; paths are relative to that file). The run "
        "may have been copied or moved: copy the clips, too, or correct corpus.path"
        + (" and corpus.videos." if node == SHARD else f" and {files}.")
    )
