"""The encoders with which a round begins, and the configuration of a run that only computes features with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.command import command
from shards.errors import ConfigError, StageError
from shards.store.files import sha256_of
from shards.store.manifest import read_manifest
from xdc_core.config.clustering import k_in_round
from xdc_core.config.methods import METHODS, OWN, clustered_sources, heads
from xdc_core.config.schema import Config
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.rounds import check_round, newest_with_encoders
from xdc_core.graph.run_stage import reuse
from xdc_core.modalities.registry import MODALITIES
from xdc_core.runs.node import encoder_node
from xdc_core.runs.run import Run

ENCODER = "encoder.safetensors"  # As in xdc_core/encoders/file.py, which imports torch.
# What a run that computes features takes from the run that has learnt.
TAKEN = ("seed", "extract", "cluster", "label", "runs_on")
EACH_CLUSTERS_ITS_OWN = next(name for name, sources in METHODS.built_in.items() if sources == (OWN,))


@dataclass(frozen=True)
class Encoders:
    """Trained encoders, and the settings with which they see clips.

    values: of a configuration that computes features with them, without the places of its corpus and its encoders.
    files: the encoder's file by modality. about: what they are, in a sentence's words.
    """

    values: dict[str, Any]
    files: dict[str, Path]
    about: str

    @property
    def sha256(self) -> dict[str, str]:
        """Return the sha256 of each file, by modality."""
        return {name: sha256_of(path) for name, path in self.files.items()}


def encoders_of_run(run: Run, number: int | None, modality: str | None) -> Encoders:
    """Return the encoders with which a round begins. number: None: the newest round that has them; modality: None: all.

    Raises:
        ConfigError: the run has no such modality or round, or no encoder yet that is up to date.
        StageError: an encoder is missing, stale, or not what was committed.
    """
    names = chosen_modalities(run, modality)
    number = newest_with_encoders(run, names) if number is None else check_round(run, number)
    files = {name: encoder_file(run, name, number) for name in names}
    about = f"the encoders at the start of round {number} of {run.root}"
    return Encoders(embedding_values(run.config, names, number), files, about)


def chosen_modalities(run: Run, modality: str | None) -> tuple[str, ...]:
    """Return a modality alone, or with None all of the run.

    Raises:
        ConfigError: the run does not have it.
    """
    if modality is None:
        return run.config.modalities
    if modality not in run.config.modalities:
        raise ConfigError(
            f"--modality {modality}: {run.root} has encoders of {', '.join(run.config.modalities)}. Choose one of them."
        )
    return (modality,)


def encoder_file(run: Run, modality: str, number: int) -> Path:
    """Return the file of the encoder with which a round begins.

    Raises:
        StageError: it is missing, stale, or not what was committed.
    """
    node = encoder_node(modality, number)
    record = reuse(run, node, Fingerprints(run))
    if record is None:
        if not number and (weights := run.weights(modality)):
            return weights
        make = command("xdc", "round", run.root, "--round", max(0, number - 1))
        raise StageError(f"{run.root}: {node}, the {modality} encoder, is missing or stale. Make it with: {make}")
    path = run.directory(node) / ENCODER
    manifest = read_manifest(path.parent)
    if manifest is None or sha256_of(path) != manifest.files[ENCODER].sha256:
        raise StageError(f"{path} is damaged: not what was committed. Rebuild it: {run.command(node, force=True)}")
    return path


def embedding_values(config: Config, modalities: Sequence[str], number: int) -> dict[str, Any]:
    """Return the values of a configuration that computes the features of these modalities as a run does in a round.

    All that decides a clip's bytes, its views and its features is the run's. It has no training and no evaluation, and
    every clip counts. Clusters can be made of its features as the run makes them; a method that needs other modalities
    is replaced by `sdc`.
    """
    given = config.model_dump(mode="json")
    learns = heads(config.method, modalities)
    method = config.method
    if not all(learns.values()) or not clustered_sources(method, modalities):
        method = EACH_CLUSTERS_ITS_OWN
    counts = {source: k_in_round(config.cluster, source, number) or 0 for source in config.cluster.k}
    k = {source: counts.get(source, max(counts.values())) for source in clustered_sources(method, modalities)}
    values = {name: given[name] for name in TAKEN}
    values |= {"method": method, "modalities": list(modalities), "rounds": 0}
    values |= {name: given[name] | {"weights": None} for name in modalities}
    if "video" not in modalities:
        # The number of frames of its views decides which part of the sound belongs to them.
        values["video"] = {"frames": config.video.frames}
    values["cluster"] |= {"k": k}
    values["runs_on"] |= {"nodes": 1, "rendezvous": None}
    values["corpus"] = given["corpus"] | {"learn_splits": None, "layout": None}
    if tuple(modalities) != config.modalities:
        needed = {MODALITIES[name].stored for name in modalities}
        values["corpus"] |= {"modalities": [name for name in config.corpus.modalities if name in needed]}
        values["corpus"] |= {"cut_at_shots": config.corpus.cut_at_shots and "video" in needed}
    return values
