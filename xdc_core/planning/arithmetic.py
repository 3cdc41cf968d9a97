"""The arithmetic of plans: seconds, bytes and memory from rates. `xdc plan` measures the rates of a run; the plan on
paper (benchmarks/plan.py) reads them from a file. Numbers may be arrays of estimates (xdc_core/planning/estimate.py).
"""

import math
from typing import TypeVar

import numpy as np

HOUR = 3600.0
# Bytes a clip or a source, measured by the scripts index_rows, plan_memory and growth of benchmarks/. The same numbers,
# with their commands, are in benchmarks/rates.json.
INDEX_PRIVATE_BYTES = 0.35
INDEX_MAPPED_BYTES = 320.0
PLAN_BYTES = 362.0
LABEL_BYTES = 16.0

Number = TypeVar("Number", float, np.ndarray)


def whole_run(once: Number, a_round: Number, rounds: float) -> Number:
    """Return what a run takes whose stages once take `once`, and in each of its rounds `a_round`."""
    return once + a_round * rounds


def linear(fixed: float, each: Number, units: Number) -> Number:
    """Return what so many units take if each takes `each`, and the stage itself `fixed`."""
    return fixed + each * units


def kmeans_s(clips: Number, sample: float, read_s: float, row_s: float, heads: int = 1) -> Number:
    """Return the seconds of a clustering: the features of all clips are read, and k-means is fitted to a sample.

    sample: the rows that fit into `cluster.sample_mb`. read_s: seconds to read a clip's features. row_s: seconds of all
    iterations, a row of the sample.
    """
    return clips * read_s + np.minimum(clips, sample) * row_s * heads


def feature_bytes(widths: int, number_bytes: int = 4) -> int:
    """Return the bytes of a clip's features in one round. widths: the numbers that all modalities have together."""
    return widths * number_bytes


def kept_rounds(rounds: int, retained: int | None) -> int:
    """Return of how many rounds the features are on the disk at a time.

    rounds: all that extract. retained: `retain.rounds`; one more round may begin before those of an earlier one go.
    """
    return rounds if retained is None else min(rounds, retained + 1)


def shards_of(clips: float, clips_per_shard: int) -> int:
    """Return the number of shards of a corpus."""
    return math.ceil(clips / clips_per_shard)


def span(hours: float) -> str:
    """Return hours as text: days, hours or minutes, rounded up to a whole minute."""
    if hours >= 48:
        return f"{hours / 24:,.1f} d"
    return f"{hours:,.1f} h" if hours >= 1 else f"{max(1, math.ceil(hours * 60))} min"
