"""The init stage: the encoders of which the first round extracts, random (XDC paper, section 3) or from a file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from shards.corpus.index import shard_names
from shards.errors import StageError
from shards.progress import Progress
from shards.store.build import Outcome
from xdc_core.compute.device import choose_device
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import thread_count
from xdc_core.data.clips import ClipRows, ClipViews
from xdc_core.data.loader import batches_by_shard, load_views
from xdc_core.encoders.batch_norm import calibrate_batch_norm
from xdc_core.encoders.build import build_encoder
from xdc_core.encoders.file import FILE_NAME, save_encoder
from xdc_core.encoders.import_weights import load_weights
from xdc_core.encoders.registry import ENCODERS
from xdc_core.modalities.registry import MODALITIES
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.stages.declared import WEIGHTS, weights_read


def make_initial_encoder(run: Run, node: Node, out: Path, progress: Progress) -> Outcome:
    """Write encoder.safetensors: the weights of the configuration's file as they are, or else random ones with
    batch-norm statistics measured on the first clips to learn from.

    Raises:
        StageError: fewer than two clips to learn from.
        ConfigError: the file of weights cannot be read, or does not fit the encoder.
    """
    modality = str(node.modality)
    name = getattr(run.config, modality).encoder
    summary: dict[str, Any] = {"encoder": name, "calibration_batches": 0}
    if path := run.weights(modality):
        encoder, dropped = load_weights(path, name, modality)
        summary[WEIGHTS] = {"file": path.name, "sha256": weights_read(run, node)[WEIGHTS], "dropped": dropped}
    else:
        torch.set_num_threads(thread_count(run.config))
        device = choose_device(run.config)
        if device.why:
            summary["device"] = str(device)
        encoder = build_encoder(name, derive_seed(run.config.seed, "init", modality)).to(device.device)
        summary["calibration_batches"] = _calibrate(run, node, encoder, device.device, progress)
    if package := ENCODERS.distribution(name):
        summary["package"] = package
    save_encoder(out / FILE_NAME, encoder, name)
    summary["parameters"] = sum(parameter.numel() for parameter in encoder.parameters())
    return Outcome(1, 0, summary)


def _calibrate(run: Run, node: Node, encoder: torch.nn.Module, device: torch.device, progress: Progress) -> int:
    """Measure a random encoder's batch-norm statistics over batches that may span shards. Returns their number.

    Without that its features are those of statistics nobody measured (mean 0, variance 1).
    """
    config, modality = run.config, MODALITIES[str(node.modality)]
    batches = config.extract.calibration_batches
    if not batches:
        return 0
    rows = ClipRows(run.corpus, shard_names(run.corpus), modality.member)
    # The corpus is shuffled: its first clips are a random sample.
    chosen = rows.learnable(config.corpus.learn_splits)[: batches * config.extract.batch]
    if len(chosen) < 2:
        raise StageError(
            f"{node}: there are {len(chosen)} clips to learn from. corpus.learn_splits is "
            f"{config.corpus.learn_splits}; look at the column split of {run.corpus}/*.parquet."
        )

    def calibration() -> Iterator[torch.Tensor]:
        clips, size = ClipViews(run.corpus, rows, modality, config), config.extract.batch
        seen = 0
        for batch in load_views(clips, batches_by_shard({"": chosen.tolist()}, size), config.extract.workers, device):
            seen += len(batch.rows) + len(batch.rejects)
            progress(seen, len(chosen), "clips seen by batch norm")
            if len(batch.rows) > 1:
                assert batch.views is not None
                yield modality.normalise(batch.views.to(device), config)

    return calibrate_batch_norm(encoder, calibration())
