"""What all probes have in common: fc, svm and neighbours, on features of which the truth is known."""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from sklearn.datasets import load_digits

from shards.errors import ConfigError, StageError
from tests.xdc_core.gaussians import gaussians, relabelled
from xdc_core.evaluation.examples import Examples
from xdc_core.evaluation.predictions import Predictions, accuracy, mean_class_accuracy, per_class
from xdc_core.probes import linear
from xdc_core.probes import svm as svm_module
from xdc_core.probes.linear import fc
from xdc_core.probes.neighbours import neighbours
from xdc_core.probes.svm import svm

Probe = Callable[..., Predictions]

PROBES = pytest.mark.parametrize(
    ("probe", "name"),
    [
        pytest.param(fc, "C", id="fc"),
        pytest.param(svm, "C", id="svm"),
        pytest.param(partial(svm, scaling="length"), "C", id="svm-length"),
        pytest.param(neighbours, "k", id="neighbours"),
    ],
)


def without(examples: Examples, *classes: int) -> Examples:
    return examples.where(~np.isin(examples.labels, classes))


@PROBES
def test_separable_classes_are_told_apart(probe: Probe, name: str) -> None:
    predictions = probe(gaussians(200, 5.0), gaussians(100, 5.0, first=1000), 5, seed=0)
    assert accuracy(predictions) >= 0.99
    assert predictions.warnings == ()
    assert predictions.scores.shape == (100, 5)
    assert predictions.groups.tolist() == list(range(1000, 1100))
    assert (predictions.truth == np.arange(1000, 1100) % 5).all()


@PROBES
def test_labels_that_have_nothing_to_do_with_the_features_give_chance(probe: Probe, name: str) -> None:
    train, test = relabelled(gaussians(400, 5.0, width=8), seed=1), gaussians(1000, 0.0, width=8, first=1000)
    # A fifth, with a deviation of 0.013.
    assert 0.15 < accuracy(probe(train, test, 5, seed=0)) < 0.25


@PROBES
def test_overlapping_classes_come_near_the_best_that_is_possible(probe: Probe, name: str) -> None:
    train, test = gaussians(1000, 0.6), gaussians(1000, 0.6, first=2000)
    means = np.random.default_rng(7).normal(size=(5, 16)) * 0.6
    nearest = ((test.features[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    best = (nearest == test.labels).mean()
    assert 0.7 < best < 0.95
    # The nearest neighbours and unit length do not know that the clouds are round.
    assert best - 0.08 < accuracy(probe(train, test, 5, seed=0)) < best + 0.03


@PROBES
def test_real_handwriting_is_told_apart(probe: Probe, name: str) -> None:
    images, digits = load_digits(return_X_y=True)
    whole = Examples(images.astype(np.float32), digits.astype(np.int64), np.arange(len(digits)))
    # The end of the set is by other writers.
    predictions = probe(whole.where(whole.groups < 1000), whole.where(whole.groups >= 1000), 10, seed=0)
    assert 0.88 < accuracy(predictions) < 0.99
    assert predictions.warnings == ()


@PROBES
def test_the_same_seed_gives_the_same_predictions(probe: Probe, name: str) -> None:
    train, test = gaussians(100, 0.6, views=2), gaussians(50, 0.6, views=2, first=1000)
    one, two = (probe(train, test, 5, seed=3) for _ in range(2))
    assert one.scores.tobytes() == two.scores.tobytes()
    assert (one.predicted == two.predicted).all()
    assert one.chosen == two.chosen


@PROBES
def test_another_seed_holds_out_other_recordings(probe: Probe, name: str) -> None:
    train, test = gaussians(100, 0.6), gaussians(50, 0.6, first=1000)
    tried = [tuple(row["accuracy"] for row in probe(train, test, 5, seed).chosen["tried"]) for seed in range(3)]
    assert len(set(tried)) > 1


@PROBES
def test_what_is_right_in_the_test_chooses_nothing(probe: Probe, name: str) -> None:
    train, test = gaussians(100, 0.6), gaussians(50, 0.6, first=1000)
    one, two = probe(train, test, 5, seed=3), probe(train, relabelled(test, seed=2), 5, seed=3)
    assert one.scores.tobytes() == two.scores.tobytes()
    assert one.chosen == two.chosen
    assert accuracy(two) < accuracy(one) - 0.3


@PROBES
def test_many_views_of_a_recording_are_better_than_one(probe: Probe, name: str) -> None:
    train, test = gaussians(200, 0.4, views=5), gaussians(200, 0.4, views=10, first=1000)
    _, firsts = np.unique(test.groups, return_index=True)
    single = test.where(np.isin(np.arange(len(test)), firsts))
    assert len(single) == 200
    assert accuracy(probe(train, test, 5, seed=0)) > accuracy(probe(train, single, 5, seed=0)) + 0.15


@PROBES
def test_the_choice_is_not_made_on_other_views_of_what_was_learnt(probe: Probe, name: str) -> None:
    # The views of a recording are almost the same and its label is drawn: whoever saw one knows the others.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 6)
    features = rng.normal(size=(100, 64))[groups] + rng.normal(size=(600, 64)) * 0.01
    train = Examples(features.astype(np.float32), rng.integers(5, size=100)[groups], groups)
    tried = probe(train, gaussians(20, 1.0, width=64, first=1000), 5, seed=0).chosen["tried"]
    # A fifth of 20 recordings, with a deviation of 0.09.
    assert max(row["accuracy"] for row in tried) < 0.6


@PROBES
def test_what_was_tried_is_told_and_the_best_is_taken(probe: Probe, name: str) -> None:
    chosen = probe(gaussians(100, 0.5, views=2), gaussians(10, 0.6, first=1000), 5, seed=0).chosen
    assert chosen["held_out"] == 20  # Recordings, not views.
    tried = chosen["tried"]
    values = [row[name] for row in tried]
    assert values == sorted(values, reverse=name == "k")
    assert len(values) >= 6
    reached = {row[name]: row["accuracy"] for row in tried}
    assert reached[chosen[name]] == max(reached.values()) > min(reached.values())


@PROBES
def test_of_candidates_that_are_equally_good_the_middle_one_is_taken(probe: Probe, name: str) -> None:
    chosen = probe(gaussians(300, 5.0), gaussians(10, 5.0, first=1000), 5, seed=0).chosen
    values = [row[name] for row in chosen["tried"]]
    assert {row["accuracy"] for row in chosen["tried"]} == {1.0}
    assert chosen[name] == values[len(values) // 2]


@PROBES
def test_a_class_that_training_lacks_is_never_predicted_and_warned_of(probe: Probe, name: str) -> None:
    train, test = without(gaussians(100, 5.0), 0, 3), gaussians(50, 5.0, first=1000)
    predictions = probe(train, test, 5, seed=0)
    assert predictions.warnings == ("no training recording of classes 0, 3: it is never predicted",)
    assert not np.isin(predictions.predicted, [0, 3]).any()
    assert [row["accuracy"] for row in per_class(predictions)] == [0, 1, 1, 0, 1]
    assert predictions.scores.shape == (50, 5)


@PROBES
def test_a_class_that_the_test_lacks_is_left_out_of_the_mean_and_warned_of(probe: Probe, name: str) -> None:
    predictions = probe(gaussians(100, 5.0), without(gaussians(50, 5.0, first=1000), 4), 5, seed=0)
    assert predictions.warnings == ("no test recording of class 4: left out of the mean over classes",)
    assert mean_class_accuracy(predictions) == accuracy(predictions) == 1


@PROBES
def test_a_test_of_one_class_has_an_accuracy_and_a_warning(probe: Probe, name: str) -> None:
    predictions = probe(gaussians(100, 5.0), without(gaussians(50, 5.0, first=1000), 0, 1, 3, 4), 5, seed=0)
    assert (len(predictions.groups), accuracy(predictions), mean_class_accuracy(predictions)) == (10, 1, 1)
    assert predictions.warnings == ("all test recordings are of class 2: the accuracy does not measure other classes",)


@PROBES
def test_two_classes_are_enough(probe: Probe, name: str) -> None:
    train, test = (without(gaussians(100, 5.0, first=first), 0, 2, 4) for first in (0, 1000))
    predictions = probe(train, test, 5, seed=0)
    assert accuracy(predictions) == 1
    assert set(predictions.predicted.tolist()) == {1, 3}


@PROBES
def test_one_class_in_training_is_nothing_to_learn(probe: Probe, name: str) -> None:
    with pytest.raises(ConfigError, match="only class 2 has training recordings"):
        probe(without(gaussians(50, 5.0), 0, 1, 3, 4), gaussians(50, 5.0, first=1000), 5, seed=0)


@PROBES
def test_no_training_and_no_test_are_refused(probe: Probe, name: str) -> None:
    some, none = gaussians(50, 5.0), gaussians(0, 5.0)
    with pytest.raises(ConfigError, match="no class has training recordings"):
        probe(none, some, 5, seed=0)
    with pytest.raises(ConfigError, match="no test recording"):
        probe(some, none, 5, seed=0)


@PROBES
def test_a_recording_may_not_be_in_training_and_test(probe: Probe, name: str) -> None:
    with pytest.raises(StageError, match="1 recordings are in training and in test, the first is recording 49"):
        probe(gaussians(50, 5.0), gaussians(50, 5.0, first=49), 5, seed=0)


@PROBES
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_features_of_a_collapsed_encoder_give_a_warning_and_chance(probe: Probe, name: str, value: float) -> None:
    train, test = gaussians(100, 5.0), gaussians(50, 5.0, first=1000)
    train, test = (Examples(np.full_like(own.features, value), own.labels, own.groups) for own in (train, test))
    predictions = probe(train, test, 5, seed=0)
    assert accuracy(predictions) == pytest.approx(0.2)
    assert np.isfinite(predictions.scores).all()
    assert [warning for warning in predictions.warnings if "all training features are the same" in warning]


@PROBES
def test_a_dead_unit_changes_nothing(probe: Probe, name: str) -> None:
    train, test = gaussians(100, 0.6), gaussians(50, 0.6, first=1000)
    dead = [Examples(np.insert(own.features, 3, 0, axis=1), own.labels, own.groups) for own in (train, test)]
    one, two = probe(train, test, 5, seed=0), probe(*dead, 5, seed=0)
    np.testing.assert_allclose(two.scores, one.scores, atol=1e-4)
    assert one.chosen == two.chosen


@PROBES
def test_very_large_features_are_no_trouble(probe: Probe, name: str) -> None:
    train, test = (gaussians(100, 5.0, first=first) for first in (0, 1000))
    large = [Examples(own.features * np.float32(1e30), own.labels, own.groups) for own in (train, test)]
    assert accuracy(probe(*large, 5, seed=0)) == 1


@PROBES
def test_classes_with_a_single_recording_are_learnt_but_choose_nothing(probe: Probe, name: str) -> None:
    whole = gaussians(100, 5.0)
    train = whole.where(~np.isin(whole.labels, [1, 4]) | (whole.groups < 5))
    predictions = probe(train, gaussians(50, 5.0, first=1000), 5, seed=0)
    assert predictions.warnings == (f"a single training recording of classes 1, 4: not used in the choice of {name}",)
    assert predictions.chosen["held_out"] == 12
    assert accuracy(predictions) > 0.9


@PROBES
def test_where_nothing_can_be_held_out_a_middle_value_is_taken_and_told(probe: Probe, name: str) -> None:
    candidates = {"counts": (1, 2, 3)} if name == "k" else {"strengths": (0.01, 1.0, 30.0)}
    middle = 2 if name == "k" else 1.0
    predictions = probe(gaussians(5, 5.0), gaussians(50, 5.0, first=1000), 5, seed=0, **candidates)
    assert predictions.chosen == {name: middle, "held_out": 0, "tried": []}
    assert predictions.warnings[-1] == f"no recording could be held out: {name} is {middle:g}, the middle candidate"
    assert accuracy(predictions) > 0.9


@PROBES
def test_with_nothing_held_out_the_middle_candidate_is_taken(probe: Probe, name: str) -> None:
    predictions = probe(gaussians(50, 5.0), gaussians(50, 5.0, first=1000), 5, seed=0, held_out_share=0.0)
    value = predictions.chosen[name]
    assert predictions.chosen == {name: value, "held_out": 0, "tried": []}
    assert predictions.warnings[-1] == f"held_out is 0: {name} is {value:g}, the middle candidate"


@PROBES
def test_a_held_out_share_that_is_none_is_refused(probe: Probe, name: str) -> None:
    with pytest.raises(ConfigError, match="held-out share is 1"):
        probe(gaussians(50, 5.0), gaussians(50, 5.0, first=1000), 5, seed=0, held_out_share=1.0)


@pytest.mark.parametrize("strengths", [(), (0.0,), (1.0, -1.0), (1.0, float("nan"))])
@pytest.mark.parametrize("probe", [fc, svm])
def test_strengths_that_are_none_are_refused(probe: Probe, strengths: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"candidates for C are \[.*Give at least one, all above 0"):
        probe(gaussians(50, 5.0), gaussians(50, 5.0, first=1000), 5, seed=0, strengths=strengths)


def test_a_strength_of_its_own_is_used_without_a_choice() -> None:
    predictions = fc(gaussians(50, 5.0), gaussians(50, 5.0, first=1000), 5, seed=0, strengths=(0.3,))
    assert (predictions.chosen["C"], predictions.chosen["tried"], predictions.warnings) == (0.3, [], ())


def wrong_labels(first: int) -> Examples:
    """Of 200 features 12 tell the class; in training two of five labels are wrong."""
    rng = np.random.default_rng(first)
    labels = np.arange(400) % 3
    features = rng.normal(size=(400, 200))
    features[:, :12] += np.eye(3)[labels].repeat(4, axis=1) * 1.5
    drawn = (rng.random(400) < 0.6) & (first == 0)
    labels = np.where(drawn, rng.integers(3, size=400), labels)
    return Examples(features.astype(np.float32), labels, np.arange(first, first + 400))


def small_difference_of_large_features(first: int) -> Examples:
    """The class is in what is left when two features that are almost the same are subtracted."""
    rng = np.random.default_rng(first)
    labels = np.arange(150) % 3
    common = rng.normal(size=(150, 1))
    told = np.stack([labels == 1, labels == 2], axis=1) * 0.05 + rng.normal(size=(150, 2)) * 0.005
    return Examples(np.hstack([common, common + told]).astype(np.float32), labels, np.arange(first, first + 150))


@pytest.mark.parametrize("probe", [fc, svm])
@pytest.mark.parametrize(("make", "bad"), [(wrong_labels, 10.0), (small_difference_of_large_features, 0.0001)])
def test_the_choice_of_c_matters_and_is_made_well(probe: Probe, make: Callable[[int], Examples], bad: float) -> None:
    train, test = make(0), make(1000)
    chosen, wrong = probe(train, test, 3, seed=0), probe(train, test, 3, seed=0, strengths=(bad,))
    assert accuracy(chosen) > accuracy(wrong) + 0.15


@pytest.mark.parametrize(("probe", "module"), [(fc, linear), (svm, svm_module)])
def test_a_fit_that_does_not_converge_is_a_warning_of_the_predictions_and_of_nobody_else(
    probe: Probe, module: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ITERATIONS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictions = probe(gaussians(100, 0.6), gaussians(50, 0.6, first=1000), 5, seed=0, strengths=(0.1, 1.0))
    choosing = [text for text in predictions.warnings if text.startswith("while choosing C: C = ")]
    assert [text.split(":")[1] for text in choosing] == [" C = 0.1", " C = 1"]
    (final,) = set(predictions.warnings) - set(choosing)
    assert final.startswith(f"C = {predictions.chosen['C']:g}: ")
    assert "converge" in final
    assert "\n" not in final
