"""The predictions of a probe for test recordings, and their accuracy."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from xdc_core.evaluation.examples import Examples


@dataclass(frozen=True)
class Predictions:
    """Predictions for test recordings.

    groups: int64 [recordings], ascending. truth and predicted: int64 [recordings]. scores: float32
    [recordings, classes], the mean over the recording's views; their scale depends on the probe. chosen: the
    hyper-parameter, and the score of every candidate on the held-out part of the training recordings. warnings: what
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
) -> Predictions:
    """Average the scores of views, [n, classes], over each recording; the highest mean is the prediction.

    Of equal scores the lowest class wins.
    """
    groups, truth = test.recordings()
    place = np.searchsorted(groups, test.groups)
    scores = np.zeros((len(groups), view_scores.shape[1]))
    np.add.at(scores, place, view_scores)
    scores /= np.bincount(place)[:, None]
    return Predictions(groups, truth, scores.argmax(axis=1), scores.astype(np.float32), chosen or {}, warnings)


def accuracy(predictions: Predictions) -> float:
    """Return the share of test recordings that are predicted right (top-1)."""
    return float((predictions.predicted == predictions.truth).mean())


def mean_class_accuracy(predictions: Predictions) -> float:
    """Return the mean of the accuracies of the classes that have a test recording: every class weighs the same."""
    return float(np.mean([row["accuracy"] for row in per_class(predictions) if row["recordings"]]))


def per_class(predictions: Predictions) -> list[dict[str, Any]]:
    """Return a row per class: class, recordings, correct, accuracy (None where the test has no recording of it)."""
    classes = predictions.scores.shape[1]
    recordings = np.bincount(predictions.truth, minlength=classes).tolist()
    correct = np.bincount(predictions.truth[predictions.predicted == predictions.truth], minlength=classes).tolist()
    return [
        {"class": number, "recordings": total, "correct": right, "accuracy": right / total if total else None}
        for number, (total, right) in enumerate(zip(recordings, correct, strict=True))
    ]
