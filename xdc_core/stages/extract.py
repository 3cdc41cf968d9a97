"""The extract stage: one feature a clip, in the index's order, exactly once, shard by shard."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from shards.corpus.index import shard_names
from shards.errors import StageError
from shards.progress import Progress
from shards.reject import Reject
from shards.store.build import Outcome
from shards.store.files import write_json
from shards.store.parquet import count_rows
from shards.store.row_count import count_rows_and_rejects
from xdc_core.compute.device import choose_device
from xdc_core.compute.threads import thread_count
from xdc_core.config.schema import Config
from xdc_core.data.clips import ClipItem, ClipViews, ShardRows
from xdc_core.data.features import feature_rows, write_features
from xdc_core.data.loader import batches_by_shard, load_views
from xdc_core.encoders.file import FILE_NAME, load_encoder
from xdc_core.encoders.spec import check_feature
from xdc_core.modalities.modality import Modality
from xdc_core.modalities.registry import MODALITIES
from xdc_core.runs.node import Node, encoder_node
from xdc_core.runs.run import Run


def extract(run: Run, node: Node, out: Path, progress: Progress) -> Outcome:
    """Write `<shard>.parquet` with columns key and feature for every shard; shards that are there are kept.

    A clip that no longer decodes is left out and stands in `<shard>.rejects.json` with its reason.

    Raises:
        StageError: a feature is not finite.
    """
    config = run.config
    assert node.round is not None
    modality = MODALITIES[str(node.modality)]
    torch.set_num_threads(thread_count(config))
    device = choose_device(config)
    encoder = extracting_encoder(run, node.round, modality, device.device)
    sizes = {shard: count_rows(run.corpus / f"{shard}.parquet", "shard") for shard in shard_names(run.corpus)}
    missing = {shard: size for shard, size in sizes.items() if not (out / f"{shard}.parquet").exists()}
    rows = ShardRows(run.corpus, missing, modality.member)
    counted = Counted(feature_rows(out), sum(sizes.values()), progress)
    views = ClipViews(run.corpus, rows, modality, config)
    for shard, encoded in encode_shards(encoder, views, rows.spans, config.extract.batch, device.device, counted):
        first, keys = rows.spans[shard].start, rows.of(shard).keys
        lost = {number - first: reason for number, reason in encoded.rejects.items()}
        _check_rows(node, shard, len(keys), [*(number - first for number in encoded.rows), *lost])
        good = keys.take(np.asarray(encoded.rows, np.int64) - first).to_pylist()
        check_finite(node, good, encoded.features)
        rejects = [Reject(run.corpus.name, node.name, "damaged", lost[n], keys[n].as_py()) for n in lost]
        write_rejects(out, shard, rejects)
        write_features(out / f"{shard}.parquet", good, encoded.features)
    written, refused = count_rows_and_rejects(out, "extract", sizes)
    summary = {"width": int(encoder.width), "device": str(device)}  # type: ignore[arg-type]
    return Outcome(written, refused, summary, tuple(f"{shard}.parquet" for shard in sizes))


class Counted:
    """Counts the clips that are done and those of them that were rejected, and reports both as progress."""

    def __init__(self, done: int, total: int, progress: Progress) -> None:
        self.done, self.total, self.rejected, self._progress = done, total, 0, progress
        self.add(0, 0)

    def add(self, good: int, rejected: int) -> None:
        """Count more clips, and report the sums."""
        self.done += good + rejected
        self.rejected += rejected
        self._progress(self.done, self.total, f"clips, {self.rejected} rejected" if self.rejected else "clips")


class Encoded(NamedTuple):
    """The clips `rows` of a shard, in order, the features of their views, float32 [views, width], and by row the
    reasons why others did not decode.
    """

    rows: list[int]
    features: np.ndarray
    rejects: dict[int, str]


def encode_shards(
    encoder: torch.nn.Module,
    views: ClipViews,
    wanted: Mapping[str, Sequence[int]],
    batch: int,
    device: torch.device,
    counted: Counted,
    item: Callable[[int], ClipItem] = ClipItem,
) -> Iterator[tuple[str, Encoded]]:
    """Compute the features of shard after shard, of the rows that are `wanted` of each, `batch` clips at a time.

    One loader for all shards: its worker processes start once, and read ahead into the next shard. `item` makes the
    loader's item of a row; as it is, that of the centre view.

    Raises:
        RuntimeError: the encoder fails on `device`, for want of memory for instance.
        StageError: a stored clip cannot be read, as `load_views`.
    """
    config, modality, workers = views.config, views.modality, views.config.extract.workers
    batches = load_views(views, batches_by_shard(wanted, batch, item), workers, device)
    for shard, numbers in wanted.items():
        good: list[int] = []
        rejects: dict[int, str] = {}
        parts = [torch.empty((0, int(encoder.width)))]  # type: ignore[arg-type]
        for loaded in islice(batches, -(-len(numbers) // batch)):
            if loaded.views is not None:
                parts.append(encode(encoder, loaded.views, modality, config, device))
            good += loaded.rows
            rejects |= dict(loaded.rejects)
            counted.add(len(loaded.rows), len(loaded.rejects))
        # Fetched here, not batch by batch: a GPU goes on while the next views are put together.
        yield shard, Encoded(good, torch.cat([part.to("cpu") for part in parts]).numpy(), rejects)


def _check_rows(node: Node, shard: str, clips: int, found: list[int]) -> None:
    if sorted(found) != list(range(clips)):
        raise StageError(
            f"{node}, shard {shard}: {len(found)} features and rejects for {clips} clips. This is a defect of xdc; "
            "please report it."
        )


def check_finite(node: Node, keys: list[str], features: np.ndarray) -> None:
    """Check features, float32 [n, width], of the clips with these keys.

    Raises:
        StageError: one has a number that is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise StageError(
            f"{node}: the feature of clip {keys[bad[0]]} is not finite ({len(bad)} of {len(keys)} are not). The "
            "encoder's training has most likely diverged: lower train.lr and run the round before again, or look at "
            "its metrics.jsonl."
        )


def write_rejects(out: Path, shard: str, rejects: list[Reject]) -> None:
    """Write `<shard>.rejects.json`, the clips of a shard that do not decode; no file where there are none."""
    path = out / f"{shard}.rejects.json"
    path.unlink(missing_ok=True)  # Of a call that was killed before the features came.
    if rejects:
        write_json(path, [asdict(reject) for reject in rejects])


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
    check_feature(result, encoder, len(batch))
    return result.float()
