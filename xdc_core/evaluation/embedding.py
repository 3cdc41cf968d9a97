"""The embed stage: features of equally spaced views of every recording of a data set, shard by shard."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shards.commit import write_json
from shards.corpus import Reject
from shards.errors import MediaError, StageError
from shards.index import read_index, shard_names
from shards.progress import Progress
from shards.read import ClipReader
from shards.row_count import count_rows_and_rejects
from shards.stage import Outcome
from xdc_core.clips import ClipRows, told_once
from xdc_core.config import Config
from xdc_core.device import choose_device
from xdc_core.encoders.build import encoder_spec
from xdc_core.evaluation.placing import views_by_clip
from xdc_core.extraction import encode, extracting_encoder
from xdc_core.features import write_features
from xdc_core.graph import with_frames
from xdc_core.modality import MODALITIES, Modality
from xdc_core.run import Node, Run
from xdc_core.threads import thread_count


class PlacedViews(Dataset[tuple[str, Tensor | None, str]]):
    """Item n: the key of clip n, its views stacked in the order of `places[n]`, and "" (or None and the reason)."""

    def __init__(
        self, corpus: Path, rows: ClipRows, places: list[list[int]], modality: Modality, config: Config
    ) -> None:
        self.corpus, self.rows, self.places, self.modality, self.config = corpus, rows, places, modality, config
        self._reader: ClipReader | None = None

    def __getitem__(self, number: int) -> tuple[str, Tensor | None, str]:
        if self._reader is None:  # Opened here, so that every worker process has its own.
            self._reader = ClipReader(self.corpus)
        shard, row = self.rows[number]
        try:
            data = self._reader.read(shard, row, self.modality.member)
            views = [self.modality.view(data, row, self.config, first) for first in self.places[number]]
            return row["key"], torch.stack(views), ""
        except MediaError as error:
            return row["key"], None, str(error)

    def __len__(self) -> int:
        return len(self.rows)


def embed(run: Run, node: Node, out: Path, progress: Progress) -> Outcome:
    """Write `<shard>.parquet` with columns key, frame (where the view begins) and feature; a row a view.

    Shards that are there are kept. A clip that does not decode stands in `<shard>.rejects.json`.

    Raises:
        StageError: a feature is not finite.
    """
    assert node.round is not None
    dataset = run.config.datasets[str(node.modality)]
    config, modality = with_frames(run.config, dataset.frames), MODALITIES[dataset.modality]
    name = getattr(config, modality.name).encoder
    torch.set_num_threads(thread_count(config))
    device = choose_device(config)
    encoder = extracting_encoder(run, node.round, modality, device)
    corpus = run.directory(Node("data", node.modality))
    places = views_by_clip(corpus, config.video.frames, dataset.views)
    shards = shard_names(corpus)
    for done, shard in enumerate(shards, start=1):
        if (out / f"{shard}.parquet").exists():
            continue
        rows = ClipRows(corpus, [shard], modality.member)
        wanted = [places.get(key, []) for key in rows.keys.to_pylist()]
        keys: list[str] = []
        frames: list[int] = []
        features = [np.empty((0, encoder_spec(name).width), np.float32)]
        rejects = []
        shown = [number for number, firsts in enumerate(wanted) if firsts]
        loader = DataLoader(
            PlacedViews(corpus, rows, wanted, modality, config),
            batch_size=None,
            sampler=shown,
            num_workers=config.extract.workers,
        )
        for number, (key, views, reason) in zip(shown, told_once(loader), strict=True):
            if views is None:
                rejects.append(Reject(corpus.name, node.name, reason, key))
                continue
            keys += [key] * len(views)
            frames += wanted[number]
            features.append(encode(encoder, views, modality, config, device).cpu().numpy())
        (out / f"{shard}.rejects.json").unlink(missing_ok=True)  # Of a call that was killed before the features came.
        if rejects:
            write_json(out / f"{shard}.rejects.json", [asdict(reject) for reject in rejects])
        found = np.concatenate(features)
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(bad):
            raise StageError(
                f"{node}: the feature of clip {keys[bad[0]]} is not finite ({len(bad)} of {len(keys)} views)."
            )
        write_features(out / f"{shard}.parquet", keys, found, frame=pa.array(frames, pa.int32()))
        progress(done, len(shards), "shards embedded")
    sizes = {shard: sum(len(places.get(key, [])) for key in _keys(corpus, shard)) for shard in shards}
    written, refused = count_rows_and_rejects(out, "embed", sizes, lambda key: len(places.get(key, [])))
    return Outcome(written, refused, {"device": str(device)}, tuple(f"{shard}.parquet" for shard in shards))


def _keys(corpus: Path, shard: str) -> list[str]:
    keys: list[str] = read_index(corpus, shard, ["key"])["key"].to_pylist()
    return keys
