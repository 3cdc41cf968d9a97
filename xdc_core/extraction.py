"""The extract stage: one feature a clip, in the index's order, exactly once, shard by shard."""

from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader

from shards.commit import write_json
from shards.corpus import Reject
from shards.errors import StageError
from shards.index import count_rows, shard_names
from shards.progress import Progress
from shards.row_count import count_rows_and_rejects
from shards.stage import Outcome
from xdc_core.clips import ClipViews, ShardRows, collate, told_once
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
        StageError: a feature is not finite.
    """
    config = run.config
    assert node.round is not None
    modality = MODALITIES[str(node.modality)]
    name = getattr(config, modality.name).encoder
    torch.set_num_threads(thread_count(config))
    device = choose_device(config)
    encoder = extracting_encoder(run, node.round, modality, device)
    sizes = {shard: count_rows(run.corpus / f"{shard}.parquet", "shard") for shard in shard_names(run.corpus)}
    missing = {shard: size for shard, size in sizes.items() if not (out / f"{shard}.parquet").exists()}
    done, total, rejected = feature_rows(out), sum(sizes.values()), 0
    progress(done, total, "clips")
    width = encoder_spec(name).width
    rows = ShardRows(run.corpus, missing, modality.member)
    batches = told_once(_batches(run, rows, modality, device))
    for shard, span in rows.spans.items():
        numbers: list[int] = []
        rejects: list[tuple[int, str]] = []
        parts = [torch.empty((0, width))]
        for batch in islice(batches, -(-len(span) // config.extract.batch)):
            if batch.views is not None:
                parts.append(encode(encoder, batch.views, modality, config, device))
            numbers += [number - span.start for number in batch.numbers]
            rejects += [(number - span.start, reason) for number, reason in batch.rejects]
            done += len(batch.numbers) + len(batch.rejects)
            rejected += len(batch.rejects)
            progress(done, total, f"clips, {rejected} rejected" if rejected else "clips")
        # Fetched here, not batch by batch: a GPU goes on while the next views are put together.
        features = torch.cat([part.to("cpu") for part in parts]).numpy()
        _write_shard(run, node, shard, out, rows.of(shard).keys, numbers, features, rejects)
    written, refused = count_rows_and_rejects(out, "extract", sizes)
    files = tuple(f"{shard}.parquet" for shard in sizes)
    return Outcome(written, refused, {"width": width, "device": str(device)}, files)


def _batches(run: Run, rows: ShardRows, modality: Modality, device: torch.device) -> DataLoader[Any]:
    """Centre views of these clips, in order; no batch is of two shards.

    One loader for all shards: its worker processes start once, and read ahead into the next shard.
    """
    settings = run.config.extract
    parts = (
        span[first : first + settings.batch]
        for span in rows.spans.values()
        for first in range(0, len(span), settings.batch)
    )
    return DataLoader(
        ClipViews(run.corpus, rows, modality, run.config),
        batch_sampler=([(number, None) for number in part] for part in parts),
        num_workers=settings.workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )


def _write_shard(
    run: Run,
    node: Node,
    shard: str,
    out: Path,
    keys: pa.ChunkedArray,
    numbers: list[int],
    features: np.ndarray,
    rejects: list[tuple[int, str]],
) -> None:
    """Features float32 [clips, width] of the shard's rows `numbers`, and the rows that were rejected. `keys`: of all.

    Raises:
        StageError: a feature is not finite, or rows went missing.
    """
    if sorted([*numbers, *(number for number, _ in rejects)]) != list(range(len(keys))):
        raise StageError(
            f"{node}, shard {shard}: {len(numbers)} features and {len(rejects)} rejects for {len(keys)} clips. "
            "This is a defect of xdc; please report it."
        )
    good = keys.take(np.asarray(numbers, np.int64)).to_pylist()
    if not np.isfinite(features).all():
        bad = good[int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])]
        raise StageError(
            f"{node}: the feature of clip {bad} is not finite. The encoder's training has most likely diverged: "
            "lower train.lr and run the round before again, or look at its metrics.jsonl."
        )
    (out / f"{shard}.rejects.json").unlink(missing_ok=True)  # Of a call that was killed before the features came.
    if rejects:
        told = [Reject(run.corpus.name, node.name, reason, keys[number].as_py()) for number, reason in rejects]
        write_json(out / f"{shard}.rejects.json", [asdict(reject) for reject in told])
    write_features(out / f"{shard}.parquet", good, features)


def extracting_encoder(run: Run, number: int, modality: Modality, device: torch.device) -> torch.nn.Module:
    """The encoder with which a round begins, as `encode` wants it. Raises StageError as `load_encoder` does."""
    path = run.directory(encoder_node(modality.name, number)) / FILE_NAME
    encoder = load_encoder(path, getattr(run.config, modality.name).encoder).to(device).eval()
    if run.config.extract.channels_last:
        encoder.to(memory_format=modality.channels_last)  # type: ignore[call-overload]
    return encoder


@torch.inference_mode()
def encode(
    encoder: torch.nn.Module, views: torch.Tensor, modality: Modality, config: Config, device: torch.device
) -> torch.Tensor:
    """Features float32 [B, width], on the device, of a batch of views."""
    batch = modality.normalise(views.to(device, non_blocking=True), config)
    if config.extract.channels_last:
        batch = batch.contiguous(memory_format=modality.channels_last)
    half = config.extract.precision == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        result: torch.Tensor = encoder(batch)
    return result.float()
