"""One number, measured several times."""

import math
import statistics
from collections.abc import Sequence
from typing import Any


def spread(values: Sequence[float]) -> dict[str, Any]:
    """n, mean, sd (of a sample, with n - 1), min and max. What n does not suffice for is None.

    Raises:
        ValueError: a value that is not finite.
    """
    bad = [value for value in values if not math.isfinite(value)]
    if bad:
        raise ValueError(f"{len(bad)} of {len(values)} values are not finite, the first is {bad[0]}")
    return {
        "n": len(values),
        # Not fmean, which can leave the range of equal values by a rounding.
        "mean": float(statistics.mean(values)) if values else None,
        "sd": float(statistics.stdev(values)) if len(values) > 1 else None,
        "min": min(values, default=None),
        "max": max(values, default=None),
    }
