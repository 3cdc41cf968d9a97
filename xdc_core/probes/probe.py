"""A probe: choose a hyper-parameter on held-out training recordings, fit on all of them, and test."""

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
    """The fit of one candidate: its scores of other views, [n, classes], and warnings."""

    value: float
    scores: np.ndarray
    warnings: tuple[str, ...] = ()


# (training views, views to score, classes, candidates) -> one attempt per candidate, in the same order.
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
    """Choose the candidate with the highest accuracy on held-out training recordings; then train on all, and test.

    Of equally good candidates the one nearest to the middle is chosen. The recordings of one original are held out
    together. candidates: the most regularised first (small C, large k). If no recording can be held out, or the share
    is 0, the middle candidate is used.

    Raises:
        ConfigError, StageError: as `check_split` and `hold_out`; or candidates are missing or not positive.
    """
    if not candidates or not all(value > 0 for value in candidates):
        raise ConfigError(f"the candidates for {name} are {list(candidates)}. Give at least one, all above 0.")
    notes = list(check_split(train, test, classes))
    held, kept = np.zeros(len(train), bool), np.empty(0, np.int64)
    if held_out_share:
        held, kept = hold_out(train.labels, train.groups, held_out_share, seed, train.originals)
    if len(kept):
        what = "a single training recording" if train.originals is None else "no original could be held out"
        notes.append(f"{what} of {listed(kept)}: not used in the choice of {name}")
    middle, tried = len(candidates) // 2, []
    value = candidates[middle]
    if len(candidates) > 1 and held.any():
        held_views = train.where(held)
        for attempt in learner(train.where(~held), held_views, classes, candidates):
            tried.append({name: attempt.value, "accuracy": accuracy(predict_recordings(held_views, attempt.scores))})
            notes += [f"while choosing {name}: {text}" for text in attempt.warnings]
        best = max(range(len(tried)), key=lambda number: (tried[number]["accuracy"], -abs(number - middle)))
        value = tried[best][name]
    elif len(candidates) > 1:
        why = "no recording could be held out" if held_out_share else "held_out is 0"
        notes.append(f"{why}: {name} is {value:g}, the middle candidate")
    (final,) = learner(train, test, classes, [value])
    chosen: dict[str, Any] = {name: value, "held_out": len(np.unique(train.groups[held])), "tried": tried}
    return predict_recordings(test, final.scores, chosen, (*notes, *final.warnings))


def fit_with_warnings(model: Any, points: np.ndarray, labels: np.ndarray) -> list[str]:
    """Fit a model of scikit-learn. Return its warnings about convergence; other warnings are issued again."""
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
