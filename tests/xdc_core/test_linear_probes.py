"""fc and svm: heads against scikit-learn's on all training views, and what scaling does."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from shards.errors import ConfigError
from tests.xdc_core.gaussians import gaussians
from xdc_core.evaluation.examples import Examples
from xdc_core.probes.linear import fc
from xdc_core.probes.standardise import fit_standard
from xdc_core.probes.svm import svm

TRAIN, TEST = gaussians(120, 0.5, views=2), gaussians(60, 0.5, views=3, first=1000)


def by_recording(scores: np.ndarray) -> np.ndarray:
    return np.array([scores[TEST.groups == group].mean(axis=0) for group in range(1000, 1060)])


def scaled(examples: Examples, factor: float, shift: float) -> Examples:
    return Examples((examples.features * factor + shift).astype(np.float32), examples.labels, examples.groups)


def test_the_head_of_fc_is_that_of_logistic_regression_on_all_training_views() -> None:
    predictions = fc(TRAIN, TEST, 5, seed=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=predictions.chosen["C"], tol=1e-7, max_iter=5000))
    model.fit(TRAIN.features.astype(np.float64), TRAIN.labels)
    expected = by_recording(model.predict_proba(TEST.features.astype(np.float64)))
    np.testing.assert_allclose(predictions.scores, expected, atol=2e-3)
    np.testing.assert_allclose(predictions.scores.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("scaling", "scaler"), [("standard", StandardScaler()), ("length", Normalizer())])
def test_the_planes_of_svm_are_those_of_linear_svc_on_all_training_views(scaling: str, scaler: object) -> None:
    predictions = svm(TRAIN, TEST, 5, seed=0, scaling=scaling)  # type: ignore[arg-type]
    model = make_pipeline(scaler, LinearSVC(C=predictions.chosen["C"], dual=False, tol=1e-6, max_iter=5000))
    model.fit(TRAIN.features.astype(np.float64), TRAIN.labels)
    expected = by_recording(model.decision_function(TEST.features.astype(np.float64)))
    # The probe stops a little before the optimum.
    np.testing.assert_allclose(predictions.scores, expected, atol=0.03)


def test_a_class_that_training_lacks_has_probability_0_or_the_worst_decision() -> None:
    train = TRAIN.where(TRAIN.labels != 2)
    assert (fc(train, TEST, 5, seed=0).scores[:, 2] == 0).all()
    assert np.isneginf(svm(train, TEST, 5, seed=0).scores[:, 2]).all()


def test_two_classes_have_opposite_decisions() -> None:
    train = TRAIN.where(np.isin(TRAIN.labels, [1, 3]))
    scores = svm(train, TEST, 5, seed=0).scores
    np.testing.assert_allclose(scores[:, 1], -scores[:, 3])
    assert (scores[TEST.recordings()[1] == 3, 3] > 0).mean() > 0.7


@pytest.mark.parametrize("probe", [fc, svm])
def test_the_unit_and_the_zero_of_features_do_not_matter(probe: object) -> None:
    assert callable(probe)
    one, two = probe(TRAIN, TEST, 5, seed=0), probe(scaled(TRAIN, 300, 40), scaled(TEST, 300, 40), 5, seed=0)
    assert one.chosen == two.chosen
    np.testing.assert_allclose(one.scores, two.scores, atol=2e-3)


def test_the_length_of_a_view_does_not_matter_where_lengths_are_made_1() -> None:
    rng = np.random.default_rng(0)
    lengths = [rng.uniform(0.1, 10, (len(own), 1)).astype(np.float32) for own in (TRAIN, TEST)]
    train, test = (
        Examples(own.features * length, own.labels, own.groups)
        for own, length in zip((TRAIN, TEST), lengths, strict=True)
    )
    one, two = (svm(*pair, 5, seed=0, scaling="length") for pair in ((TRAIN, TEST), (train, test)))
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-4)


def test_another_scaling_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"scaling is 'none'\. It must be 'standard' or 'length'"):
        svm(TRAIN, TEST, 5, seed=0, scaling="none")  # type: ignore[arg-type]


def test_standardised_features_have_mean_0_and_deviation_1_and_constant_ones_are_0() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(500, 4)) * [1e-8, 1, 1e4, 0] + [0, 1000, -3, 0.1]).astype(np.float32)
    standard = fit_standard(features)
    points = standard(features)
    assert points.dtype == np.float64
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(points.std(axis=0), [1, 1, 1, 0], atol=1e-9)
    assert standard(features + 5)[:, 3].tolist() == [0] * 500


def test_a_feature_that_varies_by_rounding_only_is_constant() -> None:
    features = np.full((500, 1), 0.1, np.float32)
    features[::2] = np.nextafter(np.float32(0.1), np.float32(1))
    assert np.ptp(features) > 0
    assert (fit_standard(features)(features) == 0).all()
