"""Clips as a PyTorch data set: it takes row numbers of the index and returns views, in the requested order."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from shards.corpus.index import in_splits, read_index
from shards.corpus.reader import ClipReader
from shards.errors import ConfigError, MediaError
from shards.sources.split import check_learn_splits
from xdc_core.modalities.modality import Modality, Where
from xdc_core.modalities.view import Views

# The columns of the index that views can have: numbers.
NUMBERS = {"start_s", "duration_s", "fps", "frames", "width", "height", "sample_rate", "samples"}


class Rows(Protocol):
    """Maps a row number to its shard's name and its index row."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> tuple[str, Mapping[str, Any]]: ...


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

    def __init__(self, corpus: Path, rows: Rows, views: Views) -> None:
        self.corpus, self.rows, self.views = corpus, rows, views
        self._reader: ClipReader | None = None

    def __getitem__(self, item: ClipItem) -> tuple[int, Tensor | None, str]:
        """Read the clip's bytes once, and decode the requested views from them.

        Raises:
            StageError: the bytes are missing, or differ from what was stored.
        """
        if self._reader is None:  # Opened here, so that every worker process has its own.
            self._reader = ClipReader(self.corpus)
        shard, row = self.rows[item.row]
        starts: tuple[Where, ...] = item.starts if item.seed is None else (np.random.default_rng(item.seed),)
        try:
            data = self._reader.read(shard, row, self.views.modality.member)
            views = [self.views.view(data, row, where) for where in starts]
        except MediaError as error:
            return item.row, None, str(error)
        return item.row, torch.stack(views), ""

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


class ClipRows:
    """The index rows of the given shards with the columns for views of one modality: about 170 bytes per clip.

    more: further columns for `column`; they are not in the rows.
    """

    def __init__(self, corpus: Path, shards: list[str], modality: Modality, more: Sequence[str] = ()) -> None:
        member = modality.member
        fields, texts = (*modality.columns, f"{member}_offset", f"{member}_size"), ("key", f"{member}_sha256")
        if wrong := sorted(set(modality.columns) - NUMBERS):
            raise ConfigError(
                f"the modality {modality.name} needs the columns {', '.join(wrong)} of the index, but views get its "
                f"numbers only: {', '.join(sorted(NUMBERS))}. Correct the modality's `columns`."
            )
        more = [name for name in more if name not in fields]
        tables = [read_index(corpus, shard, [*texts, "split", *fields, *more]) for shard in shards]
        self._shards = shards
        self._shard = np.repeat(np.arange(len(shards), dtype=np.int32), [len(table) for table in tables])
        table = pa.concat_tables(tables)
        self.keys: pa.ChunkedArray = table["key"]
        self.splits: pa.ChunkedArray = table["split"]
        self._texts = {name: table[name] for name in texts}
        self._columns = {name: table[name].to_numpy() for name in fields}
        self._more = {name: table[name] for name in more}

    def column(self, name: str) -> list[Any]:
        """Return the values of a numeric column, or of a column in `more`, in the order of the rows."""
        return (self._columns[name] if name in self._columns else self._more[name].to_numpy()).tolist()

    def __len__(self) -> int:
        return len(self._shard)

    def __getitem__(self, number: int) -> tuple[str, Mapping[str, Any]]:
        row = {name: column[number].item() for name, column in self._columns.items()}
        row |= {name: column[number].as_py() for name, column in self._texts.items()}
        return self._shards[self._shard[number]], row

    def by_shard(self) -> Iterator[tuple[str, slice]]:
        """Yield the name and the row numbers of each shard."""
        bounds = np.searchsorted(self._shard, np.arange(len(self._shards) + 1))
        for name, first, last in zip(self._shards, bounds[:-1], bounds[1:], strict=True):
            yield name, slice(int(first), int(last))

    def learnable(self, splits: list[str] | None) -> np.ndarray:
        """Return the numbers of the rows whose split is among `splits`: int64 [n]. None means all.

        Raises:
            ConfigError: no row has one of the splits.
        """
        if splits is not None:
            check_learn_splits(splits, self.splits.unique().to_pylist(), "the corpus")
        return np.flatnonzero(in_splits(self.splits, splits))


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
        self._loaded: tuple[str, ClipRows] | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> tuple[str, Mapping[str, Any]]:
        shard = self._shards[bisect_right(self._ends, number)]
        return self.of(shard)[number - self.spans[shard].start]

    def of(self, shard: str) -> ClipRows:
        """Return the rows of one shard, numbered from 0."""
        if self._loaded is None or self._loaded[0] != shard:
            self._loaded = shard, ClipRows(self._corpus, [shard], self._modality)
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
