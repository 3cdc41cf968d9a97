"""Which runs of a study take off: they end clearly above untrained encoders and the control."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any

from xdc_core.study.contenders import SCRATCH
from xdc_core.study.results import VALIDATION, Row

# The share of the way from the baseline to an accuracy of 1 that a run must have covered.
SHARE = 0.1


def takes_off(
    rows: Sequence[Row],
    targets: Sequence[dict[str, str]],
    controls: Collection[str],
    is_last: Callable[[Row], bool],
    other_untrained: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Return, for every variant, target, modality and contender, how many of its finished runs take off.

    The baseline is the highest linear probe on validation clips of any untrained encoder, and of any run of a control
    after the last round. A run takes off in a modality if its own probe after the last round is above
    baseline + (1 - baseline) / 10. targets: for each, the factor by modality. is_last: whether a row is of the last
    round of its contender. other_untrained: contenders that begin with other encoders or features than scratch.
    Without validation clips there is none.

    Returns:
        Dictionaries with variant, modality, factor, baseline, baseline_of (a contender), threshold, contender, took and
        of (numbers of runs).
    """
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    wanted = {(modality, factor) for target in targets for modality, factor in target.items()}
    for row in rows:
        if row["metric"] == "probe" and row["split"] == VALIDATION and (row["modality"], row["factor"]) in wanted:
            groups[row["variant"], row["modality"], row["factor"]].append(row)
    found = []
    for (variant, modality, factor), own in groups.items():
        base = [(row["value"], _untrained(row, other_untrained)) for row in own if row["round"] == 0]
        ends = [row for row in own if is_last(row)]
        base += [(row["value"], row["contender"]) for row in ends if row["contender"] in controls]
        if not base:
            continue
        baseline, of = max(base)
        threshold = baseline + SHARE * (1 - baseline)
        values_of: dict[str, list[float]] = defaultdict(list)
        for row in ends:
            values_of[row["contender"]].append(row["value"])
        at = {"variant": variant, "modality": modality, "factor": factor}
        at |= {"baseline": baseline, "baseline_of": of, "threshold": threshold}
        found += [
            at | {"contender": contender, "took": sum(value > threshold for value in values), "of": len(values)}
            for contender, values in values_of.items()
        ]
    return found


def _untrained(row: Row, others: Collection[str]) -> str:
    return f"{row['contender']}, untrained" if row["contender"] in others else SCRATCH
