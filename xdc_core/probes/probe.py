"""A probe: its hyper-parameter is chosen on held-out training recordings, then it learns from all and is tested."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shards.errors import ConfigError
from xdc_core.evaluation.examples import Examples, check_split, listed
from xdc_core.evaluation.held_out import hold_out
from xdc_core.evaluation.predictions import Predictions, accuracy, predict_recordings


@dataclass(frozen=True)
class Attempt:
    """What one candidate says of views it has not learnt from: scores [n, classes], and complaints of its fit."""

    value: float
    scores: np.ndarray
    complaints: tuple[str, ...] = ()


# (learn from, look at, classes, candidates) -> an attempt a candidate, in their order.
Learner = Callable[[Examples, Examples, int, Sequence[float]], Iterator[Attempt]]


def probe(
    learner: Learner,
    name: str,
    candidates: Sequence[float],
    train: Examples,
    test: Examples,
    classes: int,
    seed: int,
    held_out_share: float,
) -> Predictions:
    """Choose by the accuracy over held-out training recordings; of equals the nearest to the middle one is taken.

    The recordings of one original are held out together.

    candidates: the smoothest first. Where no recording can be held out, the middle one is taken unseen.

    Raises:
        ConfigError, StageError: as `check_split` and `hold_out`; or the candidates are none or not positive.
    """
    if not candidates or not all(value > 0 for value in candidates):
        raise ConfigError(f"the candidates for {name} are {list(candidates)}. Give at least one, all above 0.")
    notes = list(check_split(train, test, classes))
    held, kept = hold_out(train.labels, train.groups, held_out_share, seed, train.originals)
    if len(kept):
        what = "a single training recording" if train.originals is None else "no original could be held out"
        notes.append(f"{what} of {listed(kept)}: has no part in the choice of {name}")
    middle, tried = len(candidates) // 2, []
    value = candidates[middle]
    if len(candidates) > 1 and held.any():
        looked_at = train.where(held)
        for attempt in learner(train.where(~held), looked_at, classes, candidates):
            tried.append({name: attempt.value, "accuracy": accuracy(predict_recordings(looked_at, attempt.scores))})
            notes += [f"while choosing {name}: {complaint}" for complaint in attempt.complaints]
        best = max(range(len(tried)), key=lambda place: (tried[place]["accuracy"], -abs(place - middle)))
        value = tried[best][name]
    elif len(candidates) > 1:
        notes.append(f"no recording could be held out: {name} is {value:g}, without a choice")
    (final,) = learner(train, test, classes, [value])
    chosen: dict[str, Any] = {name: value, "held_out": len(np.unique(train.groups[held])), "tried": tried}
    return predict_recordings(test, final.scores, chosen, (*notes, *final.complaints))


def fit_quietly(model: Any, points: np.ndarray, labels: np.ndarray) -> list[str]:
    """Fit a model of scikit-learn. Returns its complaints of not having converged; other warnings go their way."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(points, labels)
    for other in caught:
        if not issubclass(other.category, ConvergenceWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return [
        str(own.message).splitlines()[0].rstrip(":") for own in caught if issubclass(own.category, ConvergenceWarning)
    ]
