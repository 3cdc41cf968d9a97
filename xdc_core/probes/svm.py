"""The probe `svm`: linear support vector machines, one against the rest, on frozen features."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import numpy as np

from shards.errors import ConfigError
from xdc_core.evaluation.examples import Examples
from xdc_core.evaluation.predictions import Predictions
from xdc_core.probes.probe import Attempt, fit_with_warnings, probe
from xdc_core.probes.standardise import directions, fit_standard

Scaling = Literal["standard", "length"]
# Candidates for C. A view of length 1 is sqrt(width) times shorter than a standardised one, so its C is larger.
STRENGTHS: dict[Scaling, Sequence[float]] = {
    "standard": (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0),
    "length": (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0),
}
# liblinear's own tolerance. scikit-learn's is a hundredth of it, and many times slower at a large C.
TOLERANCE, ITERATIONS = 0.01, 1000


def svm(
    train: Examples,
    test: Examples,
    classes: int,
    seed: int,
    held_out_share: float = 0.2,
    scaling: Scaling = "standard",
    strengths: Sequence[float] | None = None,
) -> Predictions:
    """Fit one linear SVM per class (squared hinge loss, L2); average the decisions over a recording's views.

    The paper's protocol for ESC-50 and DCASE, as far as remembered; loss, C and scaling are not known (unverified
    options, see docs/method.md). scaling: `standard` gives every feature mean 0 and deviation 1, `length` every view
    length 1. strengths: candidates for C, STRENGTHS[scaling] if None. Scores are the decision values; a class without a
    training recording has minus infinity.

    Raises:
        ConfigError, StageError: as `probe`; or the scaling is unknown.
    """
    if scaling not in STRENGTHS:
        raise ConfigError(f"scaling is {scaling!r}. It must be 'standard' or 'length'.")
    candidates = sorted(STRENGTHS[scaling] if strengths is None else strengths)
    return probe(partial(_classifiers, scaling), "C", candidates, train, test, classes, seed, held_out_share)


def _classifiers(
    scaling: Scaling, train: Examples, queries: Examples, classes: int, strengths: Sequence[float]
) -> Iterator[Attempt]:
    from sklearn.svm import LinearSVC

    scaled = fit_standard(train.features) if scaling == "standard" else directions
    train_points, query_points = scaled(train.features), scaled(queries.features)
    for strength in strengths:
        # With more views than features the dual solver may not converge; the primal one does.
        model = LinearSVC(C=strength, dual=False, tol=TOLERANCE, max_iter=ITERATIONS)
        warnings = [f"C = {strength:g}: {text}" for text in fit_with_warnings(model, train_points, train.labels)]
        decisions = model.decision_function(query_points)
        if decisions.ndim == 1:  # For two classes scikit-learn returns the second's only.
            decisions = np.stack([-decisions, decisions], axis=1)
        scores = np.full((len(queries), classes), -np.inf)
        scores[:, model.classes_] = decisions
        yield Attempt(strength, scores, tuple(warnings))
