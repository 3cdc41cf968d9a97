"""From scores of views to a prediction a recording, and to accuracies."""

import numpy as np
import pytest

from xdc_core.evaluation.examples import Examples
from xdc_core.evaluation.predictions import Predictions, accuracy, mean_class_accuracy, per_class, predict_recordings

GROUPS = np.array([8, 3, 8, 3, 3, 5])
TEST = Examples(np.zeros((6, 1), np.float32), np.array([1, 0, 1, 0, 0, 1]), GROUPS)


def predicted(truth: list[int], guesses: list[int], classes: int) -> Predictions:
    rows = np.arange(len(truth))
    return predict_recordings(
        Examples(np.zeros((len(truth), 1), np.float32), np.array(truth), rows), np.eye(classes)[guesses]
    )


def test_scores_are_averaged_over_the_views_of_a_recording() -> None:
    scores = np.array([[0.0, 1.0], [0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.7, 0.3], [1.0, 0.0]])
    predictions = predict_recordings(TEST, scores)
    assert predictions.groups.tolist() == [3, 5, 8]
    assert predictions.truth.tolist() == [0, 1, 1]
    np.testing.assert_allclose(predictions.scores, [[0.6, 0.4], [1, 0], [0.25, 0.75]], rtol=1e-6)
    assert predictions.predicted.tolist() == [0, 0, 1]
    assert (predictions.scores.dtype, predictions.predicted.dtype) == (np.float32, np.int64)


def test_one_sure_view_outweighs_two_that_waver() -> None:
    scores = np.array([[0, 1], [0.45, 0.55], [0, 1], [0.45, 0.55], [0.99, 0.01], [0, 1]])
    assert predict_recordings(TEST, scores).predicted.tolist() == [0, 1, 1]


def test_a_class_that_cannot_be_is_never_predicted() -> None:
    scores = np.array([[-np.inf, -5.0]] * 6)
    predictions = predict_recordings(TEST, scores)
    assert predictions.predicted.tolist() == [1, 1, 1]
    assert np.isneginf(predictions.scores[:, 0]).all()


def test_of_equal_scores_the_lowest_class_wins() -> None:
    assert predict_recordings(TEST, np.ones((6, 4))).predicted.tolist() == [0, 0, 0]


def test_what_was_chosen_and_warned_of_is_kept() -> None:
    predictions = predict_recordings(TEST, np.ones((6, 2)), {"C": 1.0}, ("odd",))
    assert (predictions.chosen, predictions.warnings) == ({"C": 1.0}, ("odd",))


def test_accuracy_counts_recordings_and_the_mean_over_classes_weighs_classes_alike() -> None:
    predictions = predicted([0, 0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 1, 0], classes=2)
    assert accuracy(predictions) == 7 / 8
    assert mean_class_accuracy(predictions) == pytest.approx(0.75)


def test_every_class_has_a_row_and_those_without_a_recording_no_accuracy() -> None:
    predictions = predicted([0, 0, 2, 2, 2], [0, 1, 2, 2, 3], classes=4)
    assert [tuple(row.values()) for row in per_class(predictions)] == [
        (0, 2, 1, 0.5),
        (1, 0, 0, None),
        (2, 3, 2, 2 / 3),
        (3, 0, 0, None),
    ]
    assert mean_class_accuracy(predictions) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_class_that_is_never_right_counts_as_zero() -> None:
    predictions = predicted([0, 0, 1], [0, 0, 0], classes=2)
    assert (per_class(predictions)[1]["accuracy"], mean_class_accuracy(predictions)) == (0, 0.5)
