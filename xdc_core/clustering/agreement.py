"""The agreement of clusters with labels or other clusters of the same clips, counted in parts."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SCORES = ("nmi", "ami", "purity", "entropy", "accuracy")


@dataclass
class Contingency:
    """The number of clips per pair of cluster and label. Its size grows with the number of pairs, not of clips."""

    counts: Counter[tuple[int, str]] = field(default_factory=Counter)

    def add(self, clusters: np.ndarray, labels: list[str | None]) -> None:
        """Count clips: clusters int [n], and one label per clip. Clips without a label are left out."""
        pairs = zip(clusters.tolist(), labels, strict=True)
        self.counts.update((cluster, label) for cluster, label in pairs if label is not None)

    def columns(self) -> list[list[Any]]:
        """Return the counts as three lists of equal length for JSON: clusters, labels, clips."""
        pairs = sorted(self.counts.items())
        return [[cluster for (cluster, _), _ in pairs], [label for (_, label), _ in pairs], [n for _, n in pairs]]

    def add_columns(self, columns: list[list[Any]]) -> None:
        """Add the counts that `columns` returned for other clips."""
        for cluster, label, clips in zip(*columns, strict=True):
            self.counts[cluster, label] += clips

    def matrix(self) -> np.ndarray:
        """Return the counts, int64 [clusters that occur, labels that occur]."""
        rows = {cluster: n for n, cluster in enumerate(sorted({cluster for cluster, _ in self.counts}))}
        columns = {label: n for n, label in enumerate(sorted({label for _, label in self.counts}))}
        matrix = np.zeros((len(rows), len(columns)), np.int64)
        for (cluster, label), count in self.counts.items():
            matrix[rows[cluster], columns[label]] = count
        return matrix


def agreement(contingency: Contingency) -> dict[str, Any]:
    """Return NMI (arithmetic mean), AMI (corrected for chance, 0 for random clusters), purity, entropy and accuracy.

    purity: the share of clips that have the dominant label of their cluster. entropy: of the labels inside a cluster,
    in bits, averaged over clips; 0 if every cluster has one label, at most log2(labels), lower is better.
    accuracy: the share of clips with the label of their cluster, for the best one-to-one matching of clusters and
    labels (Hungarian matching). The result also has the numbers of clips and labels. With fewer than two labels
    agreement is not defined, and the scores are None.
    """
    matrix = contingency.matrix()
    clips, labels = int(matrix.sum()), matrix.shape[1]
    if labels < 2:
        return {"clips": clips, "labels": labels, **dict.fromkeys(SCORES)}
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import adjusted_mutual_info_score, normalized_mutual_info_score

    # scikit-learn needs a pair per clip. These follow from the counts; their order does not matter.
    cells = np.argwhere(matrix)
    repeats = matrix[tuple(cells.T)]
    clusters, truth = (np.repeat(cells[:, axis], repeats) for axis in (0, 1))
    surprise = np.log2(matrix.sum(axis=1)[cells[:, 0]] / repeats)
    matched = linear_sum_assignment(matrix, maximize=True)
    return {
        "clips": clips,
        "labels": labels,
        "nmi": round(float(normalized_mutual_info_score(truth, clusters)), 6),
        "ami": round(float(adjusted_mutual_info_score(truth, clusters)), 6),
        "purity": round(float(matrix.max(axis=1).sum() / clips), 6),
        "entropy": round(float((repeats * surprise).sum() / clips), 6),
        "accuracy": round(float(matrix[matched].sum() / clips), 6),
    }
