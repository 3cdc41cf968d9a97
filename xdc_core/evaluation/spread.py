"""The spread of a repeatedly measured number."""

import math
import statistics
from collections.abc import Sequence

from xdc_core.documents.results import Spread


def spread(values: Sequence[float]) -> Spread:
    """Return n, mean, standard deviation (of a sample, with n - 1), minimum and maximum of some values.

    Without values all but n are None; with one value the standard deviation is None.

    Raises:
        ValueError: a value that is not finite.
    """
    bad = [value for value in values if not math.isfinite(value)]
    if bad:
        raise ValueError(f"{len(bad)} of {len(values)} values are not finite, the first is {bad[0]}")
    return Spread(
        n=len(values),
        # Not fmean: its rounding can give a mean outside the range of the values.
        mean=float(statistics.mean(values)) if values else None,
        sd=float(statistics.stdev(values)) if len(values) > 1 else None,
        min=min(values, default=None),
        max=max(values, default=None),
    )
