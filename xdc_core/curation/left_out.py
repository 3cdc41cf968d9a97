"""Which near-duplicates are left out: leaks first, then all but one of clips that repeat each other."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from xdc_core.curation.neighbours import Neighbours

# Which clips take part, bool [clips] -> their neighbours among themselves.
Compare = Callable[[np.ndarray], Neighbours]


class Pairs(NamedTuple):
    """Pairs of clips that are near-duplicates, each once: numbers, int64 [pairs], and similarities, float32."""

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray


def pairs_of(found: Neighbours, limit: float | None) -> Pairs:
    """Return the pairs of at least this similarity; None: no pair."""
    rows, places = np.nonzero(found.similarity >= (np.inf if limit is None else limit))
    return joined([Pairs(rows, found.row[rows, places].astype(np.int64), found.similarity[rows, places])])


def joined(parts: list[Pairs]) -> Pairs:
    """Return the pairs of all parts, each once, with the smaller number first."""
    first, second, similarity = (np.concatenate(column) for column in zip(*parts, strict=True))
    low, high = np.minimum(first, second), np.maximum(first, second)
    _, once = np.unique(low * (high.max(initial=0) + 1) + high, return_index=True)
    return Pairs(low[once], high[once], similarity[once])


class LeftOut(NamedTuple):
    """of: int64 [clips], the number of the clip that each one repeats; -1: it is kept. similarity: float32, to that."""

    of: np.ndarray
    similarity: np.ndarray


def leave_out_leaks(pairs: Pairs, learnt: np.ndarray) -> LeftOut:
    """Leave out every clip to learn from that is similar to another one. learnt: bool [clips]."""
    left = LeftOut(np.full(len(learnt), -1, np.int64), np.full(len(learnt), np.nan, np.float32))
    across = np.flatnonzero(learnt[pairs.first] != learnt[pairs.second])
    for pair in across[np.argsort(pairs.similarity[across], kind="stable")].tolist():
        clips = int(pairs.first[pair]), int(pairs.second[pair])
        own, other = clips if learnt[clips[0]] else clips[::-1]
        left.of[own], left.similarity[own] = other, pairs.similarity[pair]  # The most similar one comes last.
    return left


def leave_out_repeats(
    left: LeftOut, vectors: np.ndarray, found: Neighbours, compare: Compare, ranks: np.ndarray, limit: float
) -> list[Pairs]:
    """Leave out clips until no two that are kept are similar, and every other one is similar to a kept one.

    left: changed in place; clips that are left out already stay so. found: the neighbours of all clips. ranks: int64
    [clips]; of two similar clips the one with the smaller rank is kept. Returns the pairs that were seen.
    """
    before, order, seen = left.of >= 0, ranks.copy(), list[Pairs]()
    while True:
        seen.append(pairs_of(found, limit))
        _drop(left, seen[-1], order)
        # A clip may have more copies than neighbours were looked for: those that are left are compared again.
        if ((found.similarity[:, -1] >= limit) & (left.of < 0)).any():
            found = compare(left.of < 0)
            continue
        back = _far_from_kept(left, vectors, before, limit)
        if not len(back):
            return seen
        # What is kept by now stays: fewer clips come back each time.
        left.of[back], left.similarity[back] = -1, np.nan
        order[back] += len(order)
        found = compare(left.of < 0)


def _drop(left: LeftOut, pairs: Pairs, ranks: np.ndarray) -> None:
    """Give every clip that repeats one of a better rank, itself kept, the number of the most similar such clip."""
    swapped = ranks[pairs.first] > ranks[pairs.second]
    better, worse = np.where(swapped, pairs.second, pairs.first), np.where(swapped, pairs.first, pairs.second)
    order = np.lexsort((-pairs.similarity, ranks[worse]))
    for pair in order.tolist():
        row, kept = worse[pair], better[pair]
        if left.of[row] < 0 and left.of[kept] < 0:
            left.of[row], left.similarity[row] = kept, pairs.similarity[pair]


def _far_from_kept(left: LeftOut, vectors: np.ndarray, before: np.ndarray, limit: float) -> np.ndarray:
    """Return the clips that are not similar to the kept clip at the end of their chain, int64.

    A clip may be left out after others were for its sake. Those that are similar to the end get its number.
    """
    roots = left.of.copy()
    while (further := np.where(roots >= 0, left.of[roots], -1) >= 0).any():
        roots[further] = left.of[roots[further]]
    far = list[int]()
    for row in np.flatnonzero(~before & (roots != left.of)).tolist():
        similarity = float(vectors[row] @ vectors[roots[row]])
        if similarity >= limit:
            left.of[row], left.similarity[row] = roots[row], similarity
        else:
            far.append(row)
    return np.array(far, np.int64)
