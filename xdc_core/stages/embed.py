"""The embed stage: features of equally spaced views of every recording of a data set, shard by shard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from shards.corpus.index import shard_names
from shards.progress import Progress
from shards.reject import Reject
from shards.store.build import Outcome
from shards.store.row_count import count_rows_and_rejects
from xdc_core.compute.device import choose_device
from xdc_core.compute.threads import thread_count
from xdc_core.config.schema import Config
from xdc_core.config.views import with_frames
from xdc_core.data.clips import ClipRows, ClipViews
from xdc_core.data.features import write_features
from xdc_core.data.placing import PLACED, views_by_row
from xdc_core.modalities.modality import Modality
from xdc_core.modalities.registry import MODALITIES
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.stages.extract import Counted, check_finite, encode_shards, extracting_encoder, write_rejects


class PlacedViews(ClipViews):
    """Clips of which the view is the stack of those that begin at the frames `places[row]`, in that order."""

    def __init__(
        self, corpus: Path, rows: ClipRows, modality: Modality, config: Config, places: list[list[int]]
    ) -> None:
        super().__init__(corpus, rows, modality, config)
        self.places = places

    def _view(self, number: int, data: bytes, row: Mapping[str, Any], seed: int | None) -> Tensor:
        return torch.stack([self.modality.view(data, row, self.config, first) for first in self.places[number]])


def embed(run: Run, node: Node, out: Path, progress: Progress) -> Outcome:
    """Write `<shard>.parquet` with columns key, frame (where the view begins) and feature; a row a view.

    Shards that are there are kept. A clip that does not decode stands in `<shard>.rejects.json`.

    Raises:
        StageError: a feature is not finite.
    """
    assert node.round is not None
    dataset = run.config.datasets[str(node.modality)]
    config, modality = with_frames(run.config, dataset.frames), MODALITIES[dataset.modality]
    torch.set_num_threads(thread_count(config))
    device = choose_device(config)
    encoder = extracting_encoder(run, node.round, modality, device.device)
    corpus = run.directory(Node("data", node.modality))
    rows = ClipRows(corpus, shard_names(corpus), modality.member, PLACED)
    places = views_by_row(rows, config.video.frames, dataset.views)
    wanted = {
        shard: [number for number in range(span.start, span.stop) if places[number]] for shard, span in rows.by_shard()
    }
    missing = {shard: numbers for shard, numbers in wanted.items() if not (out / f"{shard}.parquet").exists()}
    total = sum(map(len, wanted.values()))
    counted = Counted(total - sum(map(len, missing.values())), total, progress)
    batch = max(1, config.extract.batch // dataset.views)  # So many clips have about that many views.
    views = PlacedViews(corpus, rows, modality, config, places)
    for shard, found in encode_shards(encoder, views, missing, batch, device.device, counted, torch.cat):
        key_of = {number: rows.keys[number].as_py() for number in (*found.numbers, *found.rejects)}
        keys = [key_of[number] for number in found.numbers for _ in places[number]]
        frames = [first for number in found.numbers for first in places[number]]
        check_finite(node, keys, found.features)
        lost = [
            Reject(corpus.name, node.name, "damaged", reason, key_of[number])
            for number, reason in found.rejects.items()
        ]
        write_rejects(out, shard, lost)
        write_features(out / f"{shard}.parquet", keys, found.features, frame=pa.array(frames, pa.int32()))
    by_key = dict(zip(rows.keys.to_pylist(), map(len, places), strict=True))
    sizes = {shard: sum(map(len, places[span])) for shard, span in rows.by_shard()}
    written, refused = count_rows_and_rejects(out, "embed", sizes, by_key.__getitem__)
    return Outcome(written, refused, {"device": str(device)}, tuple(f"{shard}.parquet" for shard in sizes))
