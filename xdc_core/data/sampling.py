"""Which clips a training round sees, and in which order."""

import numpy as np


def draw_clips(clusters: np.ndarray, draws: int, uniform: bool, seed: int) -> np.ndarray:
    """Row numbers int64 [draws] for a round, drawn from rows with pseudo-labels `clusters` (int [rows]).

    uniform: every non-empty cluster gets the same number of draws (which gets one more is random), and inside a
    cluster every clip is drawn once before any is drawn again (DeepCluster's balanced sampling). Otherwise every clip
    is drawn equally often. The order is random. Ranks take disjoint parts of the same order.

    Raises:
        ValueError: there is no row.
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
    """Shuffled passes over `rows`, one after the other, until there are `draws`."""
    passes = [rng.permutation(rows) for _ in range(-(-draws // len(rows)))]
    return np.concatenate([np.empty(0, np.int64), *passes])[:draws]


def batch_positions(step: int, batch: int, rank: int, ranks: int) -> range:
    """The positions in the order of draws that a rank takes at a step: equal work, no position twice."""
    share = batch // ranks
    first = step * batch + rank * share
    return range(first, first + share)
