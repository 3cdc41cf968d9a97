"""Write an export: a folder per encoder, each complete by itself, with the clusters of its features."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.command import stage_command
from shards.errors import ConfigError
from shards.settings import clip_part, stored_part
from shards.store.checked_read import read_stored
from shards.store.commit import remove_tree
from shards.store.files import sha256_of, sync
from shards.store.lock import exclusive
from shards.store.manifest import read_manifest
from shards.version import package_version
from xdc_core.config.methods import JOINT as JOINT_SOURCE
from xdc_core.config.methods import clustered_from, clustered_sources
from xdc_core.config.views import views_of
from xdc_core.documents.document import write_document
from xdc_core.documents.kmeans import read_kmeans
from xdc_core.encoders.transformers_files import stored_name
from xdc_core.exports.card import encoder_card, joint_card, whole_card
from xdc_core.exports.config import (
    CARD,
    CLUSTERS,
    CONFIG,
    FORMAT,
    JOINT,
    ONNX,
    WEIGHTS,
    ExportConfig,
    ExportedClusters,
    JointConfig,
    check_clusters,
    check_sha256,
    encoder_folders,
    identity_of,
    is_cluster_file,
    parse_config,
)
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.rounds import check_round, newest_with_encoders
from xdc_core.graph.run_stage import reuse
from xdc_core.runs.corpora import cut_settings
from xdc_core.runs.node import Node, encoder_node
from xdc_core.runs.run import Run


@dataclass(frozen=True)
class Exported:
    """An export that has been written. reused: whether it was there. without: by modality, why it has no clusters."""

    path: Path
    round: int
    folders: tuple[str, ...]
    reused: bool
    without: Mapping[str, str]


def export(run: Run, target: Path, number: int | None, modalities: Sequence[str], onnx: bool = False) -> Exported:
    """Write the encoders at the start of a round into the folder `target`: complete, or it is not there.

    number: of the round; None: the newest one whose encoders are up to date. modalities: whose encoders; []: all.
    onnx: also write model.onnx, checked against PyTorch.

    A folder `<modality>/` has model.safetensors (the encoder's file), config.json, README.md, and `clusters/` if the
    round has clusters of this encoder's features. With all modalities, `joint/` has joint clusters, if there are any.
    If `target` is this export already, it is left as it is.

    Raises:
        ConfigError: the run has no such modality, round or encoder, or `target` holds something else.
        StageError: the encoder's file is damaged, or ONNX computes other features.
    """
    config = run.config
    if unknown := [name for name in modalities if name not in config.modalities]:
        raise ConfigError(f"{run.root} has no modality {unknown[0]!r}. There are: {', '.join(config.modalities)}.")
    names = [name for name in config.modalities if name in (modalities or config.modalities)]
    number = newest_with_encoders(run, names) if number is None else check_round(run, number)
    fingerprints = Fingerprints(run)
    encoders = {name: _encoder(run, name, number, fingerprints) for name in names}
    configs = {name: _config(run, name, number, fingerprints, encoders[name]) for name in names}
    joint = None
    if len(names) == len(config.modalities) and (found := _clusters(run, JOINT_SOURCE, number, fingerprints)):
        shas = {name: own.sha256 for name, own in configs.items()}
        first = configs[names[0]].content()
        values = {name: first[name] for name in ("format", "xdc_version", "run", "method", "round")}
        more = {"kind": "joint", "encoders": shas, "clusters": found.content()}
        joint = JointConfig.model_validate(values | more)
    folders = (*names, *([JOINT] if joint else []))
    without = {name: own.without_clusters for name, own in configs.items() if own.clusters is None}
    wanted: dict[str, ExportConfig | JointConfig] = {**configs, **({JOINT: joint} if joint else {})}
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(target):
        if _is_there(target, wanted, onnx):
            return Exported(target, number, folders, True, without)
        partial = target.with_name(f".{target.name}.export.partial")
        remove_tree(partial)  # Of a process that was killed.
        try:
            for name, own in configs.items():
                _write_encoder(run, partial / name, own, encoders[name], onnx)
            if joint:
                _copy_clusters(run, joint.clusters, partial / JOINT)
                (partial / JOINT / CARD).write_text(joint_card(run, joint), encoding="utf-8")
                write_document(partial / JOINT / CONFIG, joint)
            (partial / CARD).write_text(whole_card(run, folders, number), encoding="utf-8")
            _commit(partial, target)
        finally:
            remove_tree(partial)
    return Exported(target, number, folders, False, without)


def _encoder(run: Run, modality: str, number: int, fingerprints: Fingerprints) -> Path:
    from xdc_core.encoders.file import FILE_NAME

    node = encoder_node(modality, number)
    if reuse(run, node, fingerprints) is None:
        raise ConfigError(
            f"{run.root}: the {modality} encoder at the start of round {number} ({node}) is missing or not up to date. "
            f"Make it: {run.command(node)}"
        )
    return run.directory(node) / FILE_NAME


def _config(run: Run, modality: str, number: int, fingerprints: Fingerprints, encoder: Path) -> ExportConfig:
    from xdc_core.encoders.file import load_encoder

    config, views = run.config, views_of(run.config, modality)
    clips = clip_part(stored_part(cut_settings(run.corpus, config.corpus)))
    built = load_encoder(encoder, views.settings.encoder, views, clips, encoder_node(modality, number).stage)
    values = {
        "format": FORMAT,
        "kind": "encoder",
        "xdc_version": package_version(),
        "run": run.root.resolve().name,
        "method": config.method,
        "round": number,
        "modality": modality,
        "encoder": stored_name(views.settings.encoder),
        "width": built.width,
        "parameters": sum(parameter.numel() for parameter in built.parameters()),
        "sha256": sha256_of(encoder),
        "view": views.settings.model_dump(mode="json", exclude={"encoder", "weights"}),
        "video_frames": views.frames,
        "recipe": views.modality.recipe(views.settings),
        "clips": clips,
        "extract": config.extract.model_dump(mode="json", include={"precision", "channels_last", "views"}),
    }
    if clusters := _clusters(run, modality, number, fingerprints):
        return ExportConfig.model_validate(values | {"clusters": clusters.content()})
    if modality in clustered_sources(config.method, config.modalities):
        make_them = _command(run, modality, number)
        why = f"the clusters of round {number} are missing or not up to date. Make them: {make_them}"
    else:
        why = f"the method {config.method} does not cluster the features of {modality} alone"
    return ExportConfig.model_validate(values | {"clusters": None, "without_clusters": why})


def _command(run: Run, modality: str, number: int) -> str:
    """Return the command that makes clusters, with the run's name: an export holds no paths of the machine."""
    return stage_command("cluster", run.root.resolve().name, modality, number)


def _clusters(run: Run, source: str, number: int, fingerprints: Fingerprints) -> ExportedClusters | None:
    """Return the description of a round's clusters of a label source; None if there are none that are up to date."""
    node = Node("cluster", source, number)
    if source not in clustered_sources(run.config.method, run.config.modalities):
        return None
    record = reuse(run, node, fingerprints)
    if record is None:
        return None
    kmeans, manifest = read_kmeans(run.directory(node)), read_manifest(run.directory(node))
    assert manifest is not None  # It is fresh.
    return ExportedClusters.model_validate(
        {
            "fingerprint": record.fingerprint,
            "source": source,
            "round": number,
            "k": kmeans.k,
            "algorithm": kmeans.algorithm,
            "modalities": list(clustered_from(source, run.config.modalities)),
            "files": {name: entry.sha256 for name, entry in manifest.files.items() if is_cluster_file(name)},
        }
    )


def _write_encoder(run: Run, folder: Path, config: ExportConfig, encoder: Path, onnx: bool) -> None:
    folder.mkdir(parents=True)
    shutil.copyfile(encoder, folder / WEIGHTS)
    check_sha256(folder / WEIGHTS, config.sha256)
    if config.clusters:
        _copy_clusters(run, config.clusters, folder)
    if onnx:
        from xdc_core.exports.onnx import write_onnx

        config = ExportConfig.model_validate(config.content() | {"onnx": write_onnx(folder, config).content()})
    (folder / CARD).write_text(encoder_card(run, config), encoding="utf-8")
    write_document(folder / CONFIG, config)


def _copy_clusters(run: Run, clusters: ExportedClusters, folder: Path) -> None:
    """Copy the files of a cluster stage, checked against its manifest, without the manifest."""
    directory = run.directory(Node("cluster", clusters.source, clusters.round))
    (folder / CLUSTERS).mkdir(parents=True)
    for name in clusters.files:
        (folder / CLUSTERS / name).write_bytes(read_stored(directory / name, "cluster"))
    check_clusters(folder / CLUSTERS, clusters)


def _is_there(target: Path, wanted: Mapping[str, ExportConfig | JointConfig], onnx: bool) -> bool:
    """Return whether `target` is this export already. Its README.md may have been edited.

    Raises:
        ConfigError: it holds something else.
    """
    if not target.exists():
        return False
    if not target.is_dir():
        raise ConfigError(f"{target} is not a folder. Give --to another path.")
    names = {path.name for path in target.iterdir()}
    if not names:
        return False
    for name, config in wanted.items():
        if not (target / name / CONFIG).is_file():
            raise _something_else(target, f"{name}/{CONFIG} is not there")
        path = target / name / CONFIG
        encoder = isinstance(config, ExportConfig)
        there = parse_config(ExportConfig, path) if encoder else parse_config(JointConfig, path)
        if identity_of(there) != identity_of(config, onnx and encoder):
            raise _something_else(target, f"{name}/ is of another encoder, of other settings, or with other options")
        if isinstance(there, ExportConfig):
            check_sha256(target / name / WEIGHTS, there.sha256)
            if there.onnx:
                check_sha256(target / name / ONNX, there.onnx.sha256)
        if there.clusters:
            check_clusters(target / name / CLUSTERS, there.clusters)
    if more := [folder.name for folder in encoder_folders(target) if folder.name not in wanted]:
        raise _something_else(target, f"{more[0]}/ is there, too")
    return True


def _something_else(target: Path, what: str) -> ConfigError:
    return ConfigError(f"{target} exists and is not this export: {what}. Remove it, or give --to another folder.")


def _commit(partial: Path, target: Path) -> None:
    """Rename a finished folder. `target` does not exist, or is an empty folder."""
    for folder, _, files in os.walk(partial, topdown=False):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))
    os.rename(partial, target)
    sync(target.parent)
