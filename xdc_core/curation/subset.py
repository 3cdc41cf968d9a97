"""A balanced subset of the clips to learn from, by clusters and by what the index says of clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

Choice = Literal["nearest", "farthest", "random"]


@dataclass
class Selection:
    """Which clips are still chosen, bool [clips], and what each rule left out, by its description."""

    chosen: np.ndarray
    left_out: dict[str, int]

    def keep(self, rule: str, kept: np.ndarray) -> None:
        """Apply a rule: clips that are not `kept`, bool [clips], are left out. A clip counts for its first rule."""
        self.left_out[rule] = int((self.chosen & ~kept).sum())
        self.chosen = self.chosen & kept


def agreeing(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return which clips have clusters that belong together, bool [clips].

    first, second: int64 [clips], clusters by two label sources, -1 for none. Clusters are matched one to one so that
    as many clips as possible are in matched ones (Hungarian matching, as for the accuracy of clusters; ours).
    """
    from scipy.optimize import linear_sum_assignment

    known = (first >= 0) & (second >= 0)
    counts = np.zeros((max(0, int(first.max())) + 1, max(0, int(second.max())) + 1), np.int64)
    np.add.at(counts, (first[known], second[known]), 1)
    partner = np.full(len(counts), -2, np.int64)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    partner[rows] = columns
    agrees: np.ndarray = known & (partner[first] == second)
    return agrees


def balanced(
    chosen: np.ndarray, clusters: np.ndarray, distances: np.ndarray, most: int, choice: Choice, seed: int
) -> np.ndarray:
    """Return which of the chosen clips are kept if each cluster keeps at most so many, bool [clips].

    clusters: int64 [clips], -1 for none: such a clip is not kept. distances: float32 [clips], to the centroid.
    choice: the nearest, the farthest, or random ones by seed. Equal distances are decided by the order of the clips,
    which must be that of their keys.
    """
    order = np.random.default_rng(seed).permutation(len(chosen)).astype(np.float64)
    ranked = {"nearest": distances, "farthest": -distances, "random": order}[choice]
    kept = np.zeros(len(chosen), bool)
    rows = np.flatnonzero(chosen & (clusters >= 0))
    rows = rows[np.lexsort((rows, ranked[rows], clusters[rows]))]
    for members in np.split(rows, np.flatnonzero(np.diff(clusters[rows])) + 1):
        kept[members[:most]] = True
    return kept


def manifest_rows(clips: pa.Table, paths: Sequence[str], labels: Sequence[str]) -> list[dict[str, str]]:
    """Return rows of a manifest: path, start_s, end_s, split and labels, sorted by path and time.

    clips: source, start_s, duration_s, split and the label columns of the index. paths: of the clips' files. Seconds
    have six digits after the point. A clip of given features of which no duration is known has no end.
    """
    rows = []
    for row, path in zip(clips.to_pylist(), paths, strict=True):
        start_s, end_s = row["start_s"], row["start_s"] + row["duration_s"]
        values = {
            "path": path,
            "start_s": f"{start_s:.6f}",
            "end_s": f"{end_s:.6f}" if end_s > start_s else "",
            "split": row["split"] or "",
        }
        rows.append(values | {name: row[name] or "" for name in labels})
    return sorted(rows, key=lambda row: (row["path"], float(row["start_s"])))
