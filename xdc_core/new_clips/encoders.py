"""The encoders with which a round begins, and the configuration of a run that only computes features with them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.command import command
from shards.errors import ConfigError, StageError
from shards.settings import CorpusSettings, for_streams
from shards.store.files import sha256_of
from shards.store.manifest import read_manifest
from xdc_core.config.clustering import ClusterSettings, k_in_round
from xdc_core.config.load import parse_config
from xdc_core.config.methods import METHODS, OWN, clustered_sources, heads
from xdc_core.config.schema import Config
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.rounds import check_round, newest_with_encoders
from xdc_core.graph.run_stage import reuse
from xdc_core.modalities.registry import MODALITIES
from xdc_core.runs.corpora import cut_settings
from xdc_core.runs.node import encoder_node
from xdc_core.runs.outside import WEIGHTS
from xdc_core.runs.run import Run

ENCODER = "encoder.safetensors"  # As in xdc_core/encoders/file.py, which imports torch.
# What a run that computes features takes from the run that has learnt.
TAKEN = ("seed", "extract", "cluster", "label", "runs_on")
EACH_CLUSTERS_ITS_OWN = next(name for name, sources in METHODS.built_in.items() if sources == (OWN,))


@dataclass(frozen=True)
class Encoders:
    """Trained encoders, and the settings with which they see clips.

    round: that begins with them. values: of a configuration that computes features with them, without the places of its
    corpus and its encoders. files: the encoder's file by modality. about: what they are, in a sentence's words.
    known_as: sha256 of other files with the same weights, by modality.
    """

    round: int
    values: dict[str, Any]
    files: dict[str, Path]
    about: str
    known_as: dict[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> dict[str, str]:
        """Return the sha256 of each file, by modality."""
        return {name: sha256_of(path) for name, path in self.files.items()}

    def digests(self, modality: str) -> set[str]:
        """Return the sha256 of all files that are known to have an encoder's weights."""
        return {sha256_of(self.files[modality]), *(known for name, known in self.known_as.items() if name == modality)}

    @property
    def config(self) -> Config:
        """Return the configuration of `values`."""
        return parse_config(self.values, f"the settings of {self.about}")


def encoders_of_run(run: Run, number: int | None, modalities: Sequence[str]) -> Encoders:
    """Return the encoders of these modalities with which a round begins. number: None: the newest round that has them.

    The settings of clips are those with which the run's corpus was cut.

    Raises:
        ConfigError: the run has no such round, or no encoder yet that is up to date, or given features and no encoder.
        StageError: an encoder is missing, stale, or not what was committed.
    """
    if not run.config.encoded:
        raise ConfigError(
            f"{run.root}: this run has given features (corpus.features) and no encoder. Features of other clips cannot "
            "be computed with it, and it is not known which are by the same encoder."
        )
    fingerprints = Fingerprints(run)
    number = newest_with_encoders(run, modalities, fingerprints) if number is None else check_round(run, number)
    files = {name: encoder_file(run, name, number, fingerprints) for name in modalities}
    about = f"the encoders at the start of round {number} of {run.root}"
    known_as = {name: digest for name in modalities if (digest := imported_weights(run, name, number))}
    config = run.config.model_copy(update={"corpus": cut_settings(run.corpus, run.config.corpus)})
    return Encoders(number, embedding_values(config, modalities, number), files, about, known_as)


def imported_weights(run: Run, modality: str, number: int) -> str | None:
    """Return the sha256 of the file from which the encoder was read with which a round begins; None if it was not."""
    manifest = read_manifest(run.directory(encoder_node(modality, number)))
    return manifest.inputs.get(WEIGHTS) if manifest else None


def chosen_modalities(root: Path, there: tuple[str, ...], modality: str | None) -> tuple[str, ...]:
    """Return a modality alone, or with None all that are there. Raises ConfigError if it is not among them."""
    if modality is None:
        return there
    if modality not in there:
        raise ConfigError(f"--modality {modality}: {root} has encoders of {', '.join(there)}. Choose one of them.")
    return (modality,)


def encoder_file(run: Run, modality: str, number: int, fingerprints: Fingerprints) -> Path:
    """Return the file of the encoder with which a round begins.

    Raises:
        StageError: it is missing, stale, or not what was committed.
    """
    node = encoder_node(modality, number)
    record = reuse(run, node, fingerprints)
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
    clusters = config.cluster if config.cluster.k else ClusterSettings()  # `supervised` needs no number.
    counts = {source: k_in_round(clusters, source, number) or 0 for source in clusters.k}
    k = {source: counts.get(source, max(counts.values())) for source in clustered_sources(method, modalities)}
    values = {name: given[name] for name in TAKEN}
    values |= {"method": method, "modalities": list(modalities), "rounds": 0}
    values |= {name: given[name] | {"weights": None} for name in modalities}
    if "video" not in modalities:
        # The number of frames of its views decides which part of the sound belongs to them.
        values["video"] = {"frames": config.video.frames}
    values["cluster"] |= {"k": k}
    values["runs_on"] |= {"nodes": 1, "rendezvous": None}
    whole = tuple(modalities) == config.modalities
    values["corpus"] = given["corpus"] if whole else for_modalities(config.corpus, modalities)
    values["corpus"] |= {"learn_splits": None, "layout": None}
    return values


def for_modalities(corpus: CorpusSettings, modalities: Sequence[str]) -> dict[str, Any]:
    """Return the values of a corpus's settings for clips that need no more than the streams of these modalities."""
    return for_streams(corpus, {MODALITIES[name].stored for name in modalities}).model_dump(mode="json")
