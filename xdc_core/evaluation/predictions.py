"""What a probe says of every test recording, and how often it is right."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from xdc_core.evaluation.examples import Examples


@dataclass(frozen=True)
class Verdict:
    """Predictions for test recordings.

    groups: int64 [recordings], ascending. truth and predicted: int64 [recordings]. scores: float32
    [recordings, classes], the mean over the recording's views; of which kind, the probe says. chosen: the
    hyper-parameter, and what every candidate reached on the held-out part of the training recordings. warnings: what
    a reader of the accuracy should know.
    """

    groups: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    chosen: dict[str, Any]
    warnings: tuple[str, ...]


def judge(
    test: Examples, view_scores: np.ndarray, chosen: dict[str, Any] | None = None, warnings: tuple[str, ...] = ()
) -> Verdict:
    """Average the scores of views, [n, classes], over each recording; the highest mean is the prediction.

    Of equal scores the lowest class wins.
    """
    groups, truth = test.recordings()
    place = np.searchsorted(groups, test.groups)
    scores = np.zeros((len(groups), view_scores.shape[1]))
    np.add.at(scores, place, view_scores)
    scores /= np.bincount(place)[:, None]
    return Verdict(groups, truth, scores.argmax(axis=1), scores.astype(np.float32), chosen or {}, warnings)


def accuracy(verdict: Verdict) -> float:
    """The share of test recordings that are predicted right (top-1)."""
    return float((verdict.predicted == verdict.truth).mean())


def mean_class_accuracy(verdict: Verdict) -> float:
    """The mean of the accuracies of the classes that have a test recording: every class weighs the same."""
    return float(np.mean([row["accuracy"] for row in per_class(verdict) if row["recordings"]]))


def per_class(verdict: Verdict) -> list[dict[str, Any]]:
    """A row a class: class, recordings, correct, accuracy (None where the test has no recording of it)."""
    classes = verdict.scores.shape[1]
    recordings = np.bincount(verdict.truth, minlength=classes).tolist()
    correct = np.bincount(verdict.truth[verdict.predicted == verdict.truth], minlength=classes).tolist()
    return [
        {"class": number, "recordings": total, "correct": right, "accuracy": right / total if total else None}
        for number, (total, right) in enumerate(zip(recordings, correct, strict=True))
    ]
