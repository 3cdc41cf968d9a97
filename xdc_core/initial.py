"""The init stage: the encoders of which the first round extracts, randomly initialised (XDC paper, section 3)."""

from collections.abc import Iterator
from pathlib import Path

import torch

from shards.errors import StageError
from shards.index import shard_names
from shards.progress import Progress
from shards.stage import Outcome
from xdc_core.clips import ClipRows, ClipViews
from xdc_core.device import choose_device
from xdc_core.encoder_file import FILE_NAME, save_encoder
from xdc_core.encoders.batch_norm import calibrate_batch_norm
from xdc_core.encoders.build import build_encoder
from xdc_core.modality import MODALITIES
from xdc_core.run import Node, Run
from xdc_core.seed import derive_seed
from xdc_core.threads import thread_count


def make_initial_encoder(run: Run, node: Node, out: Path, progress: Progress) -> Outcome:
    """Write encoder.safetensors: random weights, batch-norm statistics measured on the first clips to learn from.

    Without that calibration a fresh network's features are those of statistics nobody measured (mean 0, variance 1).

    Raises:
        StageError: fewer than two clips to learn from.
    """
    config = run.config
    modality = MODALITIES[str(node.modality)]
    name = getattr(config, modality.name).encoder
    torch.set_num_threads(thread_count(config))
    device = choose_device(config)
    encoder = build_encoder(name, derive_seed(config.seed, "init", modality.name)).to(device)
    batches = config.extract.calibration_batches
    rows = ClipRows(run.corpus, shard_names(run.corpus))
    # The corpus is shuffled: its first clips are a random sample.
    chosen = rows.learnable(config.corpus.learn_splits)[: batches * config.extract.batch]
    if batches and len(chosen) < 2:
        raise StageError(
            f"{node}: there are {len(chosen)} clips to learn from. corpus.learn_splits is "
            f"{config.corpus.learn_splits}; look at the column split of {run.corpus}/*.parquet."
        )

    def views() -> Iterator[torch.Tensor]:
        clips = ClipViews(run.corpus, rows, modality, config)
        for first in range(0, len(chosen), config.extract.batch):
            items = [clips[int(number), None] for number in chosen[first : first + config.extract.batch]]
            good = [view for _, view, _ in items if view is not None]
            progress(first + len(items), len(chosen), "clips seen by batch norm")
            if len(good) > 1:
                yield modality.normalise(torch.stack(good).to(device), config)

    used = calibrate_batch_norm(encoder, views()) if batches else 0
    save_encoder(out / FILE_NAME, encoder, name)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    return Outcome(1, 0, {"encoder": name, "parameters": parameters, "calibration_batches": used})
