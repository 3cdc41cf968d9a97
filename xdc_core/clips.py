"""Clips as a PyTorch data set: index rows in, views out, in the order asked for."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor
from torch.utils.data import Dataset

from shards.errors import MediaError, StageError
from shards.index import in_splits, read_index
from shards.read import ClipReader
from xdc_core.config import Config
from xdc_core.modality import Modality


class ClipViews(Dataset[tuple[int, Tensor | None, str]]):
    """Views of clips. Item (row, seed) gives (row, view, ""), or (row, None, reason) if the clip does not decode.

    `rows` maps a row number to its shard's name and its index row. A seed of None gives the centre view.
    """

    def __init__(self, corpus: Path, rows: "ClipRows", modality: Modality, config: Config) -> None:
        self.corpus, self.rows, self.modality, self.config = corpus, rows, modality, config
        self._reader: ClipReader | None = None

    def __getitem__(self, item: tuple[int, int | None]) -> tuple[int, Tensor | None, str]:
        number, seed = item
        if self._reader is None:  # Opened here, so that every worker process has its own.
            self._reader = ClipReader(self.corpus)
        shard, row = self.rows[number]
        rng = None if seed is None else np.random.default_rng(seed)
        try:
            data = self._reader.read(shard, row, self.modality.member)
            return number, self.modality.view(data, row, self.config, rng), ""
        except MediaError as error:
            return number, None, str(error)

    def __len__(self) -> int:
        return len(self.rows)


class ClipRows:
    """The index rows that views need, as compact arrays: about 170 bytes a clip."""

    FIELDS = ("fps", "frames", "sample_rate", "mp4_offset", "mp4_size", "flac_offset", "flac_size")

    def __init__(self, corpus: Path, shards: list[str]) -> None:
        tables = [read_index(corpus, shard, ["key", "split", "sha256", *self.FIELDS]) for shard in shards]
        self._shards = shards
        self._shard = np.repeat(np.arange(len(shards), dtype=np.int32), [len(table) for table in tables])
        table = pa.concat_tables(tables)
        self.keys: pa.ChunkedArray = table["key"]
        self.splits: pa.ChunkedArray = table["split"]
        self._digests: pa.ChunkedArray = table["sha256"]
        self._columns = {name: table[name].to_numpy() for name in self.FIELDS}

    def __len__(self) -> int:
        return len(self._shard)

    def __getitem__(self, number: int) -> tuple[str, Mapping[str, Any]]:
        row = {name: column[number].item() for name, column in self._columns.items()}
        row |= {"key": self.keys[number].as_py(), "sha256": self._digests[number].as_py()}
        return self._shards[self._shard[number]], row

    def learnable(self, splits: list[str] | None) -> np.ndarray:
        """Numbers of the rows whose split is among `splits`: int64 [n]. None means all."""
        return np.flatnonzero(in_splits(self.splits, splits))


def told_once(loader: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader. What a stage error in one of its worker processes says is said without its traceback."""
    try:
        yield from loader
    except StageError as error:
        raise StageError(str(error).rstrip().rsplit("StageError: ", 1)[-1]) from None


def collate(items: list[tuple[int, Tensor | None, str]]) -> list[tuple[int, Tensor | None, str]]:
    """Leave a batch as a list: some of it may not have decoded."""
    return items
