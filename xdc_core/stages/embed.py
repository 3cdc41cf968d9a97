"""The embed stage: features of equally spaced views of every recording of a data set, shard by shard."""

from pathlib import Path

import pyarrow as pa
import torch

from shards.corpus.index import shard_names
from shards.progress import Progress
from shards.reject import Reject
from shards.store.build import Outcome
from shards.store.row_count import count_rows_and_rejects
from xdc_core.compute.device import choose_device
from xdc_core.compute.threads import thread_count
from xdc_core.config.views import with_frames
from xdc_core.data.clips import ClipItem, ClipRows, ClipViews
from xdc_core.data.features import write_features
from xdc_core.data.view_starts import START_COLUMNS, starts_by_row
from xdc_core.modalities.registry import MODALITIES
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.stages.extract import Counted, check_finite, encode_shards, extracting_encoder, write_rejects


def embed(run: Run, node: Node, out: Path, progress: Progress) -> Outcome:
    """Write `<shard>.parquet` with columns key, frame (where the view begins) and feature, one row per view.

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
    rows = ClipRows(corpus, shard_names(corpus), modality.member, START_COLUMNS)
    starts = starts_by_row(rows, config.video.frames, dataset.views)
    wanted = {
        shard: [number for number in range(span.start, span.stop) if starts[number]] for shard, span in rows.by_shard()
    }
    missing = {shard: numbers for shard, numbers in wanted.items() if not (out / f"{shard}.parquet").exists()}
    total = sum(map(len, wanted.values()))
    counted = Counted(total - sum(map(len, missing.values())), total, progress)
    batch = max(1, config.extract.batch // dataset.views)  # So many clips have about that many views.
    views = ClipViews(corpus, rows, modality, config)

    def item(number: int) -> ClipItem:
        return ClipItem(number, tuple(starts[number]))

    for shard, encoded in encode_shards(encoder, views, missing, batch, device.device, counted, item):
        key_of = {number: rows.keys[number].as_py() for number in (*encoded.rows, *encoded.rejects)}
        keys = [key_of[number] for number in encoded.rows for _ in starts[number]]
        frames = [first for number in encoded.rows for first in starts[number]]
        check_finite(node, keys, encoded.features)
        lost = [
            Reject(corpus.name, node.name, "damaged", reason, key_of[number])
            for number, reason in encoded.rejects.items()
        ]
        write_rejects(out, shard, lost)
        write_features(out / f"{shard}.parquet", keys, encoded.features, frame=pa.array(frames, pa.int32()))
    by_key = dict(zip(rows.keys.to_pylist(), map(len, starts), strict=True))
    sizes = {shard: sum(map(len, starts[span])) for shard, span in rows.by_shard()}
    written, refused = count_rows_and_rejects(out, "embed", sizes, by_key.__getitem__)
    return Outcome(written, refused, {"device": str(device)}, tuple(f"{shard}.parquet" for shard in sizes))
