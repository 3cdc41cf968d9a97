"""Clips as a PyTorch data set: it takes row numbers of the index and returns views, in the requested order."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from shards.corpus.index import GROUPS, index_path, read_index
from shards.corpus.reader import ClipReader, Request
from shards.errors import MediaError
from shards.media.decode import StoredFrames
from shards.objects.cache import Cache
from shards.objects.tars import TARS
from shards.store.parquet import read_schema
from xdc_core.data.rows import Rows, TableRows, row_columns
from xdc_core.modalities.modality import Modality, Where
from xdc_core.modalities.view import Views


class ClipItem(NamedTuple):
    """A request for views of one clip.

    row: the clip's row number. starts: the first frame of each view, None for the centre view. seed: if it is set, one
    random view is drawn from it and `starts` is ignored. A generator continues from view to view, so all views must
    then be made in one process.
    """

    row: int
    starts: tuple[int | None, ...] = (None,)
    seed: int | np.random.Generator | None = None


class ClipViews(Dataset[tuple[int, Tensor | None, str]]):
    """Map a `ClipItem` to (row, views [n, ...], ""), or to (row, None, reason) if the clip does not decode."""

    def __init__(self, corpus: Path, rows: Rows, views: Views, cache: Cache | None = None) -> None:
        """cache: of clips from object stores."""
        self.corpus, self.rows, self.views, self._cache = corpus, rows, views, cache
        self._reader: ClipReader | None = None

    def __getitem__(self, item: ClipItem) -> tuple[int, Tensor | None, str]:
        """Read each byte of the clip at most once, and decode the requested views from them.

        Raises:
            StageError: the bytes are missing, or differ from what was stored.
        """
        return self._made([item])[0]

    def __getitems__(self, items: Iterable[ClipItem]) -> list[tuple[int, Tensor | None, str]]:
        """Return a batch of items. The loader calls this.

        What lies in object stores is read for all items at once. This is not possible where items are drawn one by one,
        each after the view before it was made, because the generator of their views is the same.
        """
        if not self._opened().batched or not isinstance(items, list):
            return [self[item] for item in items]
        if any(isinstance(item.seed, np.random.Generator) for item in items):
            return [self[item] for item in items]
        return self._made(items)

    @property
    def in_object_store(self) -> bool:
        """Return whether the clips are read from an object store."""
        return (self.corpus / TARS).exists()

    def _made(self, items: list[ClipItem]) -> list[tuple[int, Tensor | None, str]]:
        asked, positions = list[Request](), list[list[Where]]()
        for item in items:
            shard, row = self.rows[item.row]
            positions.append([*item.starts] if item.seed is None else [np.random.default_rng(item.seed)])
            # A request for each view: decoding begins near it, wherever the others are.
            asked += [
                Request(shard, row, self.views.modality.member, self.views.span(row, where)) for where in positions[-1]
            ]
        found = iter(zip(asked, self._opened().read_all(asked), strict=True))
        return [
            self._of_item(item, starts, [next(found) for _ in starts])
            for item, starts in zip(items, positions, strict=True)
        ]

    def _of_item(
        self, item: ClipItem, starts: list[Where], found: list[tuple[Request, bytes | StoredFrames]]
    ) -> tuple[int, Tensor | None, str]:
        try:
            views = [
                self.views.view(data, request.row, where) for (request, data), where in zip(found, starts, strict=True)
            ]
        except MediaError as error:
            return item.row, None, str(error)
        return item.row, torch.stack(views), ""

    def _opened(self) -> ClipReader:
        if self._reader is None:  # Opened here, so that every worker process has its own.
            self._reader = ClipReader(self.corpus, self._cache)
        return self._reader

    def close(self) -> None:
        """Close the tars that this process has opened. They are opened again for the next item."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the open files, which another process cannot use."""
        return self.__dict__ | {"_reader": None}

    def __len__(self) -> int:
        return len(self.rows)


class ShardRows:
    """The index rows of several shards, numbered consecutively. Memory holds the rows of the last used shard only.

    sizes: number of rows by shard. spans: row numbers by shard.
    """

    def __init__(self, corpus: Path, sizes: Mapping[str, int], modality: Modality) -> None:
        self._corpus, self._shards, self._modality = corpus, list(sizes), modality
        self._ends = list(accumulate(sizes.values()))
        self.spans = {
            shard: range(end - size, end) for (shard, size), end in zip(sizes.items(), self._ends, strict=True)
        }
        self._loaded: tuple[str, TableRows] | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> tuple[str, Mapping[str, Any]]:
        shard, place = self.place(number)
        return shard, self.of(shard)[place]

    def place(self, number: int) -> tuple[str, int]:
        """Return the shard of a row, and the row's number in it. Reads nothing."""
        shard = self._shards[bisect_right(self._ends, number)]
        return shard, number - self.spans[shard].start

    def of(self, shard: str) -> TableRows:
        """Return the rows of one shard, numbered from 0."""
        if self._loaded is None or self._loaded[0] != shard:
            columns = row_columns(self._modality)
            if self._modality.by_groups:
                there = read_schema(index_path(self._corpus, shard), "shard").names
                columns += [name for name in GROUPS.names if name in there]
            table = read_index(self._corpus, shard, columns)
            self._loaded = shard, TableRows(table, self._modality)
        return self._loaded[1]


class ClipBatch(NamedTuple):
    """A batch of views.

    rows: row numbers of the clips that decode. views: their views, concatenated, [views, ...]; None if no clip decodes.
    rejects: (row, reason) of the clips that do not decode.
    """

    rows: list[int]
    views: Tensor | None
    rejects: list[tuple[int, str]]


def collate(items: list[tuple[int, Tensor | None, str]]) -> ClipBatch:
    """Join items of `ClipViews` to a batch, so that a worker process sends all views as one tensor."""
    good = [(row, views) for row, views, _ in items if views is not None]
    rejects = [(row, reason) for row, views, reason in items if views is None]
    return ClipBatch([row for row, _ in good], torch.cat([views for _, views in good]) if good else None, rejects)
