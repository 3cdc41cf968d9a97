"""The probe `fc`: a linear softmax head on frozen features."""

from collections.abc import Iterator, Sequence

import numpy as np

from xdc_core.evaluation.examples import Examples
from xdc_core.evaluation.predictions import Predictions
from xdc_core.probes.probe import Attempt, fit_quietly, probe
from xdc_core.probes.standardise import fit_standard

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
# scikit-learn's tolerance; ten times its iterations, for correlated features at a large C need them.
TOLERANCE, ITERATIONS = 1e-4, 1000


def fc(
    train: Examples,
    test: Examples,
    classes: int,
    seed: int,
    held_out_share: float = 0.2,
    strengths: Sequence[float] = STRENGTHS,
) -> Predictions:
    """Multinomial logistic regression on standardised features; softmax averaged over a recording's views.

    strengths: candidates for C, which weighs the summed cross-entropy against half the squared weights. Scores are
    probabilities, 0 for a class that training has no recording of.

    The paper's `fc` trains the head by SGD on augmented clips. This is the optimum of the same loss, with L2, on
    fixed views (unverified option, see docs/method.md).

    Raises:
        ConfigError, StageError: as `probe`.
    """
    return probe(_heads, "C", sorted(strengths), train, test, classes, seed, held_out_share)


def _heads(fit: Examples, look: Examples, classes: int, strengths: Sequence[float]) -> Iterator[Attempt]:
    from sklearn.linear_model import LogisticRegression

    standard = fit_standard(fit.features)
    known, unknown = standard(fit.features), standard(look.features)
    # Every C starts from the optimum of the one before.
    model = LogisticRegression(tol=TOLERANCE, max_iter=ITERATIONS, warm_start=True)
    for strength in strengths:
        model.C = strength
        complaints = [f"C = {strength:g}: {text}" for text in fit_quietly(model, known, fit.labels)]
        scores = np.zeros((len(look), classes))
        scores[:, model.classes_] = model.predict_proba(unknown)
        yield Attempt(strength, scores, tuple(complaints))
