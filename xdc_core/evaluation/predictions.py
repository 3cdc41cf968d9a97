"""The predictions of a probe for test recordings, and their accuracy."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from xdc_core.evaluation.examples import Examples


@dataclass(frozen=True)
class Predictions:
    """Predictions for test recordings.

    groups: the recordings, int64 [recordings], ascending. truth, predicted: their classes, int64 [recordings]. scores:
    float32 [recordings, classes], the mean over the recording's views; their scale depends on the probe. chosen: the
    hyper-parameter, and the accuracy of every candidate on the held-out part of the training recordings. warnings: what
    a reader of the accuracy should know.
    """

    groups: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    chosen: dict[str, Any]
    warnings: tuple[str, ...]


def predict_recordings(
    test: Examples, view_scores: np.ndarray, chosen: dict[str, Any] | None = None, warnings: tuple[str, ...] = ()
) -> Predictions:
    """Average the scores of views, [n, classes], over each recording, and predict the class with the highest mean.

    If several classes have the highest mean, the lowest class number is predicted.
    """
    groups, truth = test.recordings()
    recording_of_view = np.searchsorted(groups, test.groups)
    scores = np.zeros((len(groups), view_scores.shape[1]))
    np.add.at(scores, recording_of_view, view_scores)
    scores /= np.bincount(recording_of_view)[:, None]
    return Predictions(groups, truth, scores.argmax(axis=1), scores.astype(np.float32), chosen or {}, warnings)


def accuracy(predictions: Predictions) -> float:
    """Return the share of test recordings whose class is predicted correctly (top-1)."""
    return float((predictions.predicted == predictions.truth).mean())


def mean_class_accuracy(predictions: Predictions) -> float:
    """Return the unweighted mean of the accuracies of the classes that have a test recording."""
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
