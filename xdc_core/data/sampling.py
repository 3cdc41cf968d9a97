"""The random order of clips in a training round."""

import numpy as np


def draw_clips(clusters: np.ndarray, draws: int, uniform: bool, seed: int) -> np.ndarray:
    """Draw row numbers, uint32 [draws], from rows with pseudo-labels `clusters`, int [rows].

    uniform: every non-empty cluster gets the same number of draws (a random choice of clusters gets one more), and
    within a cluster every clip is drawn once before any is drawn again (DeepCluster's balanced sampling). Otherwise
    every clip is drawn equally often. The order is random. Ranks take disjoint parts of the same order.

    Takes 12 bytes per row, or 4 per row and 4 per draw. From 2^32 rows on, row numbers are int64.

    Raises:
        ValueError: there are no rows.
    """
    if len(clusters) == 0:
        raise ValueError("there is no clip to draw from")
    rng = np.random.default_rng(seed)
    drawn = np.empty(draws, np.uint32 if len(clusters) <= 2**32 else np.int64)
    if not uniform:
        _cycle(np.arange(len(clusters), dtype=drawn.dtype), drawn, rng)
        return drawn
    order = np.argsort(clusters, kind="stable").astype(drawn.dtype)
    sizes = np.bincount(clusters)
    groups = np.split(order, np.cumsum(sizes[sizes > 0])[:-1])
    quota = np.full(len(groups), draws // len(groups))
    quota[rng.permutation(len(groups))[: draws % len(groups)]] += 1
    for rows, part in zip(groups, np.split(drawn, np.cumsum(quota)[:-1]), strict=True):
        _cycle(rows, part, rng)
    rng.shuffle(drawn)
    return drawn


def _cycle(rows: np.ndarray, drawn: np.ndarray, rng: np.random.Generator) -> None:
    """Fill `drawn` with shuffled passes over `rows`; of the last one only the beginning may fit."""
    for first in range(0, len(drawn), len(rows)):
        part = drawn[first : first + len(rows)]
        part[:] = rng.permutation(rows)[: len(part)]


def batch_positions(step: int, batch: int, rank: int, ranks: int) -> range:
    """Return the positions in the order of draws for one rank and step; each rank gets batch // ranks of them."""
    share = batch // ranks
    first = step * batch + rank * share
    return range(first, first + share)
