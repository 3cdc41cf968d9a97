"""The probe `fc`: a linear softmax head on frozen features."""

from collections.abc import Iterator, Sequence

import numpy as np

from xdc_core.evaluation.examples import Examples
from xdc_core.evaluation.predictions import Predictions
from xdc_core.probes.probe import Attempt, fit_with_warnings, probe
from xdc_core.probes.standardise import fit_standard

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
# scikit-learn's tolerance, and ten times its iterations, which correlated features need at a large C.
TOLERANCE, ITERATIONS = 1e-4, 1000


def fc(
    train: Examples,
    test: Examples,
    classes: int,
    seed: int,
    held_out_share: float = 0.2,
    strengths: Sequence[float] = STRENGTHS,
) -> Predictions:
    """Fit multinomial logistic regression on standardised features; average the softmax over a recording's views.

    strengths: candidates for C, the weight of the summed cross-entropy against half the squared weights. Scores are
    probabilities; a class without a training recording has 0.

    The paper's `fc` trains the head by SGD on augmented clips. This is the optimum of the same loss, with L2, on
    fixed views (unverified option, see docs/method.md).

    Raises:
        ConfigError, StageError: as `probe`.
    """
    return probe(_heads, "C", sorted(strengths), train, test, classes, seed, held_out_share)


def _heads(train: Examples, queries: Examples, classes: int, strengths: Sequence[float]) -> Iterator[Attempt]:
    from sklearn.linear_model import LogisticRegression

    standard = fit_standard(train.features)
    train_points, query_points = standard(train.features), standard(queries.features)
    # The fit for each C starts at the optimum for the previous one.
    model = LogisticRegression(tol=TOLERANCE, max_iter=ITERATIONS, warm_start=True)
    for strength in strengths:
        model.C = strength
        warnings = [f"C = {strength:g}: {text}" for text in fit_with_warnings(model, train_points, train.labels)]
        scores = np.zeros((len(queries), classes))
        scores[:, model.classes_] = model.predict_proba(query_points)
        yield Attempt(strength, scores, tuple(warnings))
