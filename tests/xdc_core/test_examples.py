"""Labelled features, and what is wrong or odd about a split of them."""

import numpy as np
import pytest

from shards.errors import ConfigError, StageError
from tests.xdc_core.gaussians import gaussians
from xdc_core.evaluation.examples import Examples, check_split, listed


def examples(labels: list[int], first: int = 0) -> Examples:
    """A recording a label, numbered from `first`."""
    features = np.random.default_rng(first).normal(size=(len(labels), 3)).astype(np.float32)
    return Examples(features, np.array(labels), np.arange(first, first + len(labels)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_counted_and_the_first_recording_is_named(bad: float) -> None:
    features = np.zeros((5, 3), np.float32)
    features[[2, 4], 1] = bad
    with pytest.raises(StageError, match=r"^2 of 5 features .* first belongs to recording 12\. .*lower train\.lr"):
        Examples(features, np.zeros(5, int), np.array([10, 11, 12, 13, 14]))


def test_examples_without_a_label_are_refused() -> None:
    with pytest.raises(StageError, match=r"^1 of 3 examples have no label; the first belongs to recording 8\."):
        Examples(np.zeros((3, 2), np.float32), np.array([0, -1, 1]), np.array([7, 8, 9]))


def test_a_recording_with_two_labels_is_refused_and_named() -> None:
    groups, labels = np.array([9, 4, 4, 9, 4, 3]), np.array([1, 0, 2, 1, 0, 2])
    with pytest.raises(StageError, match=r"^1 recordings .* recording 4 with the labels \[0, 2\]"):
        Examples(np.zeros((6, 2), np.float32), labels, groups)


@pytest.mark.parametrize(("features", "labels", "groups"), [((4,), 4, 4), ((4, 2), 3, 4), ((4, 2), 4, 5)])
def test_arrays_that_do_not_belong_together_are_refused(features: tuple[int, ...], labels: int, groups: int) -> None:
    with pytest.raises(ValueError, match="have the shapes"):
        Examples(np.zeros(features, np.float32), np.zeros(labels, int), np.zeros(groups, int))


def test_recordings_come_in_ascending_order_with_their_labels() -> None:
    groups = np.array([9, 4, 9, 30, 4, 9])
    found, labels = Examples(np.zeros((6, 2), np.float32), np.array([1, 0, 1, 2, 0, 1]), groups).recordings()
    assert (found.tolist(), labels.tolist()) == ([4, 9, 30], [0, 1, 2])


def test_a_mask_takes_rows_of_all_three() -> None:
    whole = examples([0, 1, 2, 1], first=5)
    part = whole.where(np.array([False, True, False, True]))
    assert (len(part), part.labels.tolist(), part.groups.tolist()) == (2, [1, 1], [6, 8])
    assert (part.features == whole.features[[1, 3]]).all()


def test_nothing_is_odd_about_a_split_with_every_class_on_both_sides() -> None:
    assert check_split(examples([0, 1, 2]), examples([2, 1, 0], first=10), 3) == ()


def test_classes_that_are_missing_on_a_side_are_told() -> None:
    assert check_split(examples([0, 1, 2]), examples([0, 1, 2, 3, 4], first=10), 5) == (
        "no training recording of classes 3, 4: it is never predicted",
    )
    assert check_split(examples([0, 1, 2, 3]), examples([0, 1, 3], first=10), 4) == (
        "no test recording of class 2: left out of the mean over classes",
    )


def test_a_class_that_is_missing_on_both_sides_is_told_for_both() -> None:
    warnings = check_split(examples([0, 1]), examples([0, 1], first=10), 3)
    assert [warning.split(":")[0] for warning in warnings] == [
        "no training recording of class 2",
        "no test recording of class 2",
    ]


def test_a_test_of_one_class_is_told() -> None:
    (warning,) = check_split(examples([0, 1, 2]), examples([2, 2], first=10), 3)
    assert warning == "all test recordings are of class 2: the accuracy does not measure other classes"


def test_features_that_are_all_the_same_are_told() -> None:
    same = Examples(np.full((4, 3), 0.1, np.float32), np.array([0, 1, 0, 1]), np.arange(4))
    (warning,) = check_split(same, examples([0, 1], first=10), 2)
    assert "all training features are the same" in warning


def test_with_less_than_two_classes_there_is_nothing_to_learn() -> None:
    with pytest.raises(ConfigError, match=r"^only class 1 has training recordings: .* at least two"):
        check_split(examples([1, 1]), examples([0, 1], first=10), 2)
    with pytest.raises(ConfigError, match=r"^no class has training recordings"):
        check_split(examples([]), examples([0, 1], first=10), 2)


def test_without_a_test_recording_there_is_nothing_to_say() -> None:
    with pytest.raises(ConfigError, match="there is no test recording"):
        check_split(examples([0, 1]), examples([], first=10), 2)


def test_a_recording_in_training_and_test_is_refused() -> None:
    with pytest.raises(StageError, match=r"^2 recordings are in training and in test, the first is recording 3\."):
        check_split(examples([0, 1, 0, 1, 0]), examples([1, 0, 0], first=3), 2)


def test_labels_beyond_the_classes_and_features_of_two_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="label 3, but the 3 classes"):
        check_split(examples([0, 1]), examples([3], first=10), 3)
    with pytest.raises(ValueError, match="3 wide in training, 16 in test"):
        check_split(examples([0, 1]), gaussians(4, 1.0, classes=2, first=10), 2)


def test_long_lists_of_classes_are_cut_and_counted() -> None:
    assert listed(np.array([4])) == "class 4"
    assert listed(np.arange(3)) == "classes 0, 1, 2"
    assert listed(np.arange(10)) == "classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert listed(np.arange(14)) == "classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 4 more"
