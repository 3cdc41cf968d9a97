"""The extract stage: one feature a clip, in the index's order, exactly once, shard by shard."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from shards.commit import write_json
from shards.corpus import Reject
from shards.errors import StageError
from shards.index import count_rows, shard_names
from shards.progress import Progress
from shards.stage import Outcome
from xdc_core.clips import ClipRows, ClipViews, collate, told_once
from xdc_core.config import Config
from xdc_core.device import choose_device
from xdc_core.encoder_file import FILE_NAME, load_encoder
from xdc_core.encoders.build import encoder_spec
from xdc_core.features import feature_rows, write_features
from xdc_core.graph import encoder_node
from xdc_core.modality import MODALITIES, Modality
from xdc_core.run import Node, Run
from xdc_core.threads import thread_count


def extract(run: Run, node: Node, out: Path, progress: Progress) -> Outcome:
    """Write `<shard>.parquet` with columns key and feature for every shard; shards that are there are kept.

    A clip that no longer decodes is left out and stands in `<shard>.rejects.json` with its reason.

    Raises:
        StageError: a feature is not finite, or rows went missing.
    """
    config = run.config
    assert node.round is not None
    modality = MODALITIES[str(node.modality)]
    name = getattr(config, modality.name).encoder
    torch.set_num_threads(thread_count(config))
    device = choose_device(config)
    encoder = load_encoder(run.directory(encoder_node(modality.name, node.round)) / FILE_NAME, name)
    encoder.to(device).eval()
    shards = shard_names(run.corpus)
    total = sum(count_rows(run.corpus / f"{shard}.parquet", "shard") for shard in shards)
    done, rejected = feature_rows(out), 0
    progress(done, total, "clips")
    for shard in shards:
        if (out / f"{shard}.parquet").exists():
            continue
        rows = ClipRows(run.corpus, [shard])

        def tell(seen: int, rejects: int, done: int = done, rejected: int = rejected) -> None:
            note = f"clips, {rejected + rejects} rejected" if rejected + rejects else "clips"
            progress(done + seen, total, note)

        features, numbers, rejects = _extract_shard(run, rows, modality, encoder, device, tell)
        if len(numbers) + len(rejects) != len(rows) or len(set(numbers)) != len(numbers):
            raise StageError(
                f"{node}, shard {shard}: {len(numbers)} features and {len(rejects)} rejects for {len(rows)} clips. "
                "This is a defect of xdc; please report it."
            )
        keys = rows.keys.take(np.asarray(numbers, np.int64)).to_pylist()
        if not np.isfinite(features).all():
            bad = keys[int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])]
            raise StageError(
                f"{node}: the feature of clip {bad} is not finite. The encoder's training has most likely diverged: "
                "lower train.lr and run the round before again, or look at its metrics.jsonl."
            )
        if rejects:
            write_json(out / f"{shard}.rejects.json", [asdict(reject) for reject in rejects])
        write_features(out / f"{shard}.parquet", keys, features)
        done += len(rows)
        rejected += len(rejects)
    written = feature_rows(out)
    return Outcome(written, total - written, {"width": encoder_spec(name).width, "device": str(device)})


def _extract_shard(
    run: Run,
    rows: ClipRows,
    modality: Modality,
    encoder: torch.nn.Module,
    device: torch.device,
    tell: Callable[[int, int], None],
) -> tuple[np.ndarray, list[int], list[Reject]]:
    """Features float32 [good clips, width], their row numbers in order, and the rejects.

    `tell` is told how many clips have been seen and how many rejected.
    """
    config = run.config
    loader = DataLoader(
        ClipViews(run.corpus, rows, modality, config),
        batch_size=config.extract.batch,
        sampler=[(number, None) for number in range(len(rows))],
        num_workers=config.extract.workers,
        collate_fn=collate,
    )
    width: int = encoder.width  # type: ignore[assignment]
    features, numbers, rejects = [np.empty((0, width), np.float32)], [], []
    seen = 0
    for items in told_once(loader):
        views = []
        for number, view, reason in items:
            if view is None:
                key = rows.keys[number].as_py()
                rejects.append(Reject(str(run.corpus.name), f"extract.{modality.name}", reason, key))
            else:
                numbers.append(number)
                views.append(view)
        if views:
            features.append(encode(encoder, torch.stack(views), modality, config, device))
        seen += len(items)
        tell(seen, len(rejects))
    return np.concatenate(features), numbers, rejects


@torch.inference_mode()
def encode(
    encoder: torch.nn.Module, views: torch.Tensor, modality: Modality, config: Config, device: torch.device
) -> np.ndarray:
    """Features float32 [B, width], on the CPU, of a batch of views."""
    batch = modality.normalise(views.to(device), config)
    half = config.extract.precision == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        result: torch.Tensor = encoder(batch)
    return result.float().cpu().numpy()
