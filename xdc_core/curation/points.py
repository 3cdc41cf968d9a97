"""Clips as points of length 1, whose inner products are their similarities: whitened features of all modalities."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

from shards.corpus.index import shard_names
from shards.errors import StageError
from shards.progress import Progress, silent
from xdc_core.data.features import source_part, source_rows
from xdc_core.probes.cca import whitening
from xdc_core.search.spaces import Map

# In units of the variance of a standardised unit. Components that differ less than this between clips hardly count.
# More than search has (0.01): copies differ in the components that vary least.
RIDGE = 0.3


@dataclass(frozen=True)
class Points:
    """Clips as points of length 1, so that the inner product of two is their similarity.

    keys: text [clips]. vectors: float32 [clips, width], in a file that has no name any more. Per modality features are
    whitened and scaled to length 1; the similarity of two clips is the mean of their cosines over the modalities.
    """

    keys: np.ndarray
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


def read_points(corpus: Path, features: Sequence[Path], folder: Path, progress: Progress = silent) -> Points:
    """Read the features of all clips that have one in each of these directories, as points of length 1.

    Features that a ReLU has made have one sign, so that all of their cosines are near 1, and a few directions decide
    them. So those of each modality are standardised over all clips, and whitened with RIDGE, as for search (ours, see
    docs/method.md). The points are in a file in `folder`, which is removed with them. In memory is one shard; sums are
    float64.

    Raises:
        StageError: a file is missing or damaged, or there is a feature that is not finite.
        OSError: the disk is full.
    """
    shards = shard_names(corpus)
    sizes = [source_rows(features, shard) for shard in shards]
    if not sum(sizes):
        raise StageError(f"{corpus}: no clip has a feature in {', '.join(map(str, features))}.")
    widths, sums = list[int](), np.zeros(0)
    keys: list[str] = []
    with tempfile.TemporaryFile(dir=folder, prefix=".points") as file:
        vectors = np.zeros((0, 0), np.float32)
        for number, shard in enumerate(shards):
            own, parts = source_part(features, shard)
            if not all(np.isfinite(part).all() for part in parts):
                raise StageError(
                    f"shard {shard}: a feature of {features[0].parent} is not finite. Run extract --force."
                )
            if not widths:
                widths = [part.shape[1] for part in parts]
                vectors, sums = _mapped(file, sum(sizes), sum(widths)), np.zeros(sum(widths))
            part = np.concatenate(parts, axis=1)
            sums += part.sum(axis=0, dtype=np.float64)
            vectors[len(keys) : len(keys) + len(own)] = part
            keys += own.tolist()
            progress(number + 1, 3 * len(shards), "shards read")
    edges = [slice(*ends) for ends in pairwise(np.cumsum([0, *widths]).tolist())]
    mean, products = sums / len(keys), [np.zeros((width, width)) for width in widths]
    for number, rows in enumerate(_shard_rows(sizes)):
        centred = vectors[rows] - mean
        for product, edge in zip(products, edges, strict=True):
            product += centred[:, edge].T @ centred[:, edge]
        progress(len(sizes) + number + 1, 3 * len(sizes), "shards compared with their mean")
    maps = [_whitened(mean[edge], product / len(keys)) for edge, product in zip(edges, products, strict=True)]
    for number, rows in enumerate(_shard_rows(sizes)):
        for own_map, edge in zip(maps, edges, strict=True):
            vectors[rows, edge] = own_map(vectors[rows, edge]) / np.float32(len(widths) ** 0.5)
        progress(2 * len(sizes) + number + 1, 3 * len(sizes), "shards whitened")
    return Points(np.array(keys), vectors)


def _mapped(file: BinaryIO, rows: int, width: int) -> np.ndarray:
    # A full disk is an error here; a mapped page that has none would end the process.
    os.posix_fallocate(file.fileno(), 0, rows * width * np.dtype(np.float32).itemsize)
    return np.memmap(file, np.float32, "r+", shape=(rows, width))


def _shard_rows(sizes: Sequence[int]) -> Iterator[slice]:
    yield from (slice(*ends) for ends in pairwise(np.cumsum([0, *sizes]).tolist()))


def _whitened(mean: np.ndarray, covariance: np.ndarray) -> Map:
    deviation = np.sqrt(np.diagonal(covariance))
    # A unit that is the same for all clips becomes 0.
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6 * max(deviation.max(), 1e-30))
    matrix = whitening(scale[:, None] * covariance * scale, RIDGE)
    return Map(mean.astype(np.float32), (scale[:, None] * matrix).astype(np.float32))
