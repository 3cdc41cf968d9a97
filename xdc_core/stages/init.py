"""The init stage: make the encoders for the first round, random (XDC paper, section 3) or from a file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.errors import StageError
from shards.store.build import Outcome
from shards.store.manifest import read_manifest
from shards.store.node import Node
from shards.store.stage import Stage, Task
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import thread_count
from xdc_core.config.schema import Config, ExtractSettings, RunsOn
from xdc_core.config.views import views_of
from xdc_core.encoders.registry import ENCODERS
from xdc_core.encoders.transformers_files import has_weights, is_transformers
from xdc_core.modalities.registry import VIEW_MODULES
from xdc_core.modalities.view import Views
from xdc_core.runs.corpora import clips_of
from xdc_core.runs.node import SHARD
from xdc_core.runs.outside import SOURCE, WEIGHTS, folder_of_model, source_read, weights_read
from xdc_core.runs.run import Run

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Initialisation:
    """The part of the configuration for the stage. weights: a file, relative to the run; None for random weights."""

    seed: int
    learn_splits: list[str] | None
    views: Views
    weights: str | None
    extract: ExtractSettings
    runs_on: RunsOn

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide the encoder. The digest of a file of weights is added separately."""
        if self.weights:
            return {"encoder": self.views.settings.encoder}
        return {
            "seed": self.seed,
            "learn_splits": self.learn_splits,
            "batches": self.extract.calibration_batches,
            "batch": self.extract.batch,
            "view": self.views.hashed(training=False),
        }


def make_initial_encoder(task: Task[Initialisation]) -> Outcome:
    """Write encoder.safetensors: the weights of the configured file or model of transformers, or else random weights
    with batch-norm statistics measured on the first clips to learn from.

    Raises:
        StageError: fewer than two clips to learn from.
        ConfigError: the file of weights cannot be read, or does not fit the encoder.
    """
    import torch

    from xdc_core.compute.device import choose_device
    from xdc_core.encoders.build import build_encoder
    from xdc_core.encoders.file import FILE_NAME, save_encoder
    from xdc_core.encoders.header import EncoderHeader, header_of
    from xdc_core.encoders.import_weights import header_of_weights, load_weights

    settings, modality = task.settings, task.about
    name = settings.views.settings.encoder
    summary: dict[str, Any] = {"encoder": name, "calibration_batches": 0}
    if settings.weights:
        path = (task.root / settings.weights).resolve()
        encoder, dropped = load_weights(path, name, modality)
        width = int(encoder.width)  # type: ignore[arg-type]
        # This run's settings are not in the fingerprint of imported weights: the file's own, if any, are handed on.
        header = header_of_weights(path, settings.views) or EncoderHeader(name, modality, width)
        summary[WEIGHTS] = {"file": path.name, "sha256": task.outside[WEIGHTS], "dropped": dropped}
    else:
        torch.set_num_threads(thread_count(settings.runs_on))
        device = choose_device(settings.runs_on)
        if device.why:
            summary["device"] = str(device)
        folder = _model(task) if is_transformers(name) else None
        summary |= {"pretrained": has_weights(folder)} if folder else {}
        encoder = build_encoder(name, derive_seed(settings.seed, "init", modality), folder).to(device.device)
        summary["calibration_batches"] = _calibrate(task, encoder, device.device)
        clips = clips_of(task.directory(SHARD))
        header = header_of(settings.views, int(encoder.width), clips, training=False)  # type: ignore[arg-type]
    if package := ENCODERS.distribution(name):
        summary["package"] = package
    save_encoder(task.out / FILE_NAME, encoder, header)
    summary["parameters"] = sum(parameter.numel() for parameter in encoder.parameters())
    return Outcome(1, 0, summary)


def _model(task: Task[Initialisation]) -> Path:
    """Return the folder of the configured model of transformers."""
    manifest = read_manifest(task.directory(SHARD))
    assert manifest is not None  # The caller of a stage has checked its inputs.
    views, rate = task.settings.views, manifest.settings["sample_rate"]
    return folder_of_model(views.settings.encoder, task.root, task.outside[SOURCE], views, rate)


def _calibrate(task: Task[Initialisation], encoder: "torch.nn.Module", device: "torch.device") -> int:
    """Measure a random encoder's batch-norm statistics, and return the number of batches, which may span shards.

    Without this, batch norm would use its initial statistics (mean 0, variance 1).
    """
    import numpy as np

    from xdc_core.data.clips import ClipViews
    from xdc_core.data.loader import batches_by_shard, load_views
    from xdc_core.data.rows import corpus_rows
    from xdc_core.encoders.batch_norm import calibrate_batch_norm

    settings, corpus = task.settings, task.directory(SHARD)
    batches, size = settings.extract.calibration_batches, settings.extract.batch
    if not batches or is_transformers(settings.views.settings.encoder):  # These have no batch norm.
        return 0
    rows = corpus_rows(corpus, settings.views.modality, task.root)
    # The corpus is shuffled: its first clips are a random sample.
    chosen = np.flatnonzero(rows.in_splits(settings.learn_splits))[: batches * size]
    if len(chosen) < 2:
        raise StageError(
            f"{task.node}: there are {len(chosen)} clips to learn from; at least 2 are needed. corpus.learn_splits is "
            f"{settings.learn_splits}: check the column split of the index of {corpus}."
        )

    def calibration() -> "Iterator[torch.Tensor]":
        clips, items = (
            ClipViews(corpus, rows, settings.views, settings.runs_on.clip_cache),
            batches_by_shard({"": chosen.tolist()}, size),
        )
        seen = 0
        for batch in load_views(clips, items, settings.extract.workers, device):
            seen += len(batch.rows) + len(batch.rejects)
            task.progress(seen, len(chosen), "clips seen by batch norm")
            if len(batch.rows) > 1:
                assert batch.views is not None
                yield settings.views.normalise(batch.views.to(device))

    return calibrate_batch_norm(encoder, calibration())


def _nodes(config: Config, number: int | None) -> list[Node]:
    return [Node("init", modality) for modality in config.encoded] if number is None else []


def _inputs(config: Config, node: Node) -> list[Node]:
    # Only random encoders are calibrated, with clips of the corpus.
    return [] if getattr(config, str(node.modality)).weights else [SHARD]


def _settings(config: Config, node: Node) -> Initialisation:
    modality = str(node.modality)
    return Initialisation(
        seed=config.seed,
        learn_splits=config.corpus.learn_splits,
        views=views_of(config, modality),
        weights=getattr(config, modality).weights,
        extract=config.extract,
        runs_on=config.runs_on,
    )


def _outside(run: Run, node: Node) -> dict[str, str]:
    return weights_read(run, node) | source_read(run, node)


INIT: Stage[Config, Run, Initialisation] = Stage(
    name="init",
    version=2,
    summary="Make the encoder for the first round.",
    unit="encoder",
    folder="init",
    of="modality",
    each_round=False,
    library="torch",
    modules=(
        "xdc_core.data.loader",
        "xdc_core.encoders.batch_norm",
        "xdc_core.encoders.import_weights",
        "xdc_core.encoders.r2plus1d",
        "xdc_core.encoders.audio_resnet",
        *VIEW_MODULES,
    ),
    nodes=_nodes,
    inputs=_inputs,
    settings=_settings,
    work=make_initial_encoder,
    outside=_outside,
)
