"""Which clips are in another cluster than in the round before."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xdc_core.clustering.agreement import Contingency, agreement
from xdc_core.data.labels import read_classes
from xdc_core.documents.report import Changed
from xdc_core.report.tables.cross import cross_table

SHOWN = 20  # Rows of the page's table.


@dataclass(frozen=True)
class Move:
    """Clips that were in cluster `was`, whose clips are now mostly in `usual`, and are now in `now`."""

    was: int
    usual: int
    now: int
    clips: int


def count_changes(corpus: Path, before: Path, now: Path, k: int) -> np.ndarray:
    """Count clips by their cluster in the round before and now, int64 [clusters before, k].

    Raises:
        StageError: a file is missing or damaged.
    """
    return cross_table(corpus, before, now, (read_classes(before)[0], k))


def usual_clusters(counts: np.ndarray) -> list[int]:
    """Return, for each cluster of the round before, the cluster that has most of its clips now: numbers have no
    relation between rounds. The smaller number for equally many.
    """
    return [int(cluster) for cluster in counts.argmax(axis=1)]


def changed(counts: np.ndarray) -> Changed:
    """Return how many clips are not where most clips of their earlier cluster are, and the AMI of both groupings."""
    contingency = Contingency(
        Counter({(int(was), str(now)): int(counts[was, now]) for was, now in np.argwhere(counts)})
    )
    clips = int(counts.sum())
    return Changed(clips=clips, moved=clips - int(counts.max(axis=1).sum()), ami=agreement(contingency)["ami"])


def largest_moves(counts: np.ndarray) -> list[Move]:
    """Return the SHOWN moves with most clips, the largest first."""
    usual = usual_clusters(counts)
    moves = [
        Move(int(was), usual[was], int(now), int(counts[was, now]))
        for was, now in np.argwhere(counts)
        if now != usual[was]
    ]
    return sorted(moves, key=lambda move: (-move.clips, move.was, move.now))[:SHOWN]
