"""How often a search finds what it should: clips with the query's label, and the query's own clip."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xdc_core.probes.ranking import none_drawn
from xdc_core.search.exact import Nearest, without


def measure(
    found: Nearest,
    own: np.ndarray,
    among: np.ndarray,
    labels: Mapping[str, Sequence[Any]],
    at: Sequence[int],
    across: bool,
) -> dict[str, Any]:
    """Return recall at each k of `at`, and the level of chance, by label column and, across modalities, of the clip.

    found: at least max(at) + 1 per query. own: int64 [queries], the row of each query's clip. among: which rows could
    be found, bool [rows]. labels: by column, of all rows; queries without a label are left out. The query's own clip
    does not count for a label. It can itself be found by the queries whose clip is among those rows; without such a
    query nothing is said of it. Chance is the expectation for a random order.
    """
    places = np.flatnonzero(among)
    rows = without(found, own, max(at)).rows
    result: dict[str, Any] = {"queries": len(own), "among": len(places)}
    for name, values in labels.items():
        column = np.array(["" if value is None else str(value) for value in values])
        known = column[own] != ""
        if not known.any():
            continue
        same = (column[rows] == column[own][:, None]) & (rows >= 0)
        total, wanted = len(places) - among[own][known], _alike(column, own[known], among)
        result[name] = {
            "queries": int(known.sum()),
            "recall": {str(k): float(same[known][:, :k].any(axis=1).mean()) for k in at},
            "chance": {str(k): float(1 - none_drawn(total, wanted, np.minimum(k, total)).mean()) for k in at},
        }
    there = among[own]
    if across and there.any():
        hits = (found.rows == own[:, None])[there]
        result["own clip"] = {
            "queries": int(there.sum()),
            "recall": {str(k): float(hits[:, :k].any(axis=1).mean()) for k in at},
            "chance": {str(k): min(1.0, k / len(places)) for k in at},
        }
    return result


def _alike(column: np.ndarray, own: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return how many other clips that could be found have the label of each query, int64 [queries]."""
    names, number = np.unique(column, return_inverse=True)
    counts = np.bincount(number[among], minlength=len(names))
    return np.asarray(counts[number[own]] - among[own])
