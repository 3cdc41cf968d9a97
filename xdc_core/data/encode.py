"""Encode views of clips shard by shard, while the loader decodes the next ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from shards.errors import StageError
from shards.reject import Reject
from shards.store.executor import Advance
from shards.store.files import write_json
from shards.store.node import Node
from xdc_core.config.schema import ExtractSettings
from xdc_core.data.clips import ClipItem, ClipViews
from xdc_core.data.loader import batches_by_shard, load_views
from xdc_core.encoders.file import FILE_NAME, load_encoder
from xdc_core.encoders.spec import check_feature
from xdc_core.modalities.view import Views
from xdc_core.runs.corpora import clips_of


@dataclass(frozen=True)
class Encoding:
    """An encoder on a device, with the views and the settings of its forward passes."""

    encoder: torch.nn.Module
    views: Views
    settings: ExtractSettings
    device: torch.device

    @property
    def width(self) -> int:
        """Return the width of a feature."""
        return int(self.encoder.width)  # type: ignore[arg-type]

    @torch.inference_mode()
    def encode(self, views: torch.Tensor) -> torch.Tensor:
        """Return the features of a batch of views: float32 [B, width], on the device."""
        batch = self.views.normalise(views.to(self.device, non_blocking=True))
        if self.settings.channels_last:
            batch = batch.contiguous(memory_format=self.views.modality.channels_last)
        half = self.settings.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            result: torch.Tensor = self.encoder(batch)
        check_feature(result, self.encoder, len(batch))
        return result.float()


def load_encoding(
    directory: Path, corpus: Path, views: Views, settings: ExtractSettings, device: torch.device
) -> Encoding:
    """Load the encoder that a stage wrote into `directory`, for clips of `corpus`. Raises StageError as `load_encoder`
    does.
    """
    path, name = directory / FILE_NAME, views.settings.encoder
    encoder = load_encoder(path, name, views, clips_of(corpus)).to(device).eval()
    if settings.channels_last:
        encoder.to(memory_format=views.modality.channels_last)  # type: ignore[call-overload]
    return Encoding(encoder, views, settings, device)


class Encoded(NamedTuple):
    """The features of one shard.

    rows: row numbers of the clips that decode, in order. features: of their views, float32 [views, width], or the mean
    over each clip's views, float32 [rows, width]. rejects: by row, why a clip does not decode.
    """

    rows: list[int]
    features: np.ndarray
    rejects: dict[int, str]


def encode_shards(
    encoding: Encoding,
    clips: ClipViews,
    wanted: Mapping[str, Sequence[int]],
    batch: int,
    advance: Advance,
    item: Callable[[int], ClipItem] = ClipItem,
    mean: bool = False,
) -> Iterator[tuple[str, Encoded]]:
    """Yield each shard with the features of its rows in `wanted`, computed `batch` clips at a time.

    All shards share one loader: its worker processes start once, and read ahead into the next shard. item: makes the
    loader's item for a row; by default it requests the centre view. mean: return the mean over the views of each clip.
    advance: called per batch with the numbers of good and rejected features (of views, or of clips with `mean`).

    Raises:
        RuntimeError: the encoder fails on its device, for example for lack of memory.
        StageError: a stored clip cannot be read.
    """
    items = batches_by_shard(wanted, batch, item)
    batches = load_views(clips, items, encoding.settings.workers, encoding.device)
    for shard, numbers in wanted.items():
        good: list[int] = []
        rejects: dict[int, str] = {}
        parts = [torch.empty((0, encoding.width))]
        for loaded in islice(batches, -(-len(numbers) // batch)):
            if loaded.views is not None:
                features = encoding.encode(loaded.views)
                if mean:
                    of_clips = features.split([len(item(row).starts) for row in loaded.rows])
                    features = torch.stack([views.mean(dim=0) for views in of_clips])
                parts.append(features)
            good += loaded.rows
            rejects |= dict(loaded.rejects)
            if mean:
                advance(len(loaded.rows), len(loaded.rejects))
            else:
                good_views = 0 if loaded.views is None else len(loaded.views)
                advance(good_views, sum(len(item(row).starts) for row, _ in loaded.rejects))
        # Copied to the CPU once per shard: a GPU computes while the loader prepares the next views.
        yield shard, Encoded(good, torch.cat([part.to("cpu") for part in parts]).numpy(), rejects)


def check_finite(node: Node, keys: list[str], features: np.ndarray) -> None:
    """Check that the features, float32 [n, width], of the clips `keys` are finite.

    Raises:
        StageError: a feature has a number that is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise StageError(
            f"{node}: the feature of clip {keys[bad[0]]} is not finite ({len(bad)} of {len(keys)} are not). The "
            "encoder's training has most likely diverged: check its metrics.jsonl, or lower train.lr and run the "
            "previous round again."
        )


def write_rejects(out: Path, shard: str, rejects: list[Reject]) -> None:
    """Write `<shard>.rejects.json`, the clips of a shard that do not decode; without such clips, no file."""
    if rejects:
        write_json(out / f"{shard}.rejects.json", [asdict(reject) for reject in rejects])
