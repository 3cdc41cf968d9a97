"""The random order of clips in a training round."""

import numpy as np


def draw_clips(clusters: np.ndarray, draws: int, uniform: bool, seed: int) -> np.ndarray:
    """Draw row numbers, int64 [draws], from rows with pseudo-labels `clusters`, int [rows].

    uniform: every non-empty cluster gets the same number of draws (a random choice of clusters gets one more), and
    within a cluster every clip is drawn once before any is drawn again (DeepCluster's balanced sampling). Otherwise
    every clip is drawn equally often. The order is random. Ranks take disjoint parts of the same order.

    Raises:
        ValueError: there are no rows.
    """
    if len(clusters) == 0:
        raise ValueError("there is no clip to draw from")
    rng = np.random.default_rng(seed)
    if not uniform:
        return _cycle(np.arange(len(clusters)), draws, rng)
    order = np.argsort(clusters, kind="stable")
    _, starts = np.unique(clusters[order], return_index=True)
    groups = np.split(order, starts[1:])
    quota = np.full(len(groups), draws // len(groups))
    quota[rng.permutation(len(groups))[: draws % len(groups)]] += 1
    chosen = [_cycle(rows, int(count), rng) for rows, count in zip(groups, quota, strict=True)]
    return rng.permutation(np.concatenate(chosen))


def _cycle(rows: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Repeat shuffled passes over `rows` until there are `draws` row numbers."""
    passes = [rng.permutation(rows) for _ in range(-(-draws // len(rows)))]
    return np.concatenate([np.empty(0, np.int64), *passes])[:draws]


def batch_positions(step: int, batch: int, rank: int, ranks: int) -> range:
    """Return the positions in the order of draws for one rank and step; each rank gets batch // ranks of them."""
    share = batch // ranks
    first = step * batch + rank * share
    return range(first, first + share)
