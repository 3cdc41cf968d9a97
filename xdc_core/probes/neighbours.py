"""The probe `neighbours`: the classes of the most similar training views. Nothing is trained."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from shards.errors import ConfigError
from xdc_core.evaluation.examples import Examples
from xdc_core.evaluation.predictions import Predictions
from xdc_core.probes.probe import Attempt, probe
from xdc_core.probes.standardise import directions

COUNTS = (1, 5, 10, 20, 50, 100, 200)
TEMPERATURE = 0.07
# Number of cosines in memory at once: 16 MB of float32.
CHUNK = 1 << 22


def neighbours(
    train: Examples,
    test: Examples,
    classes: int,
    seed: int,
    held_out_share: float = 0.2,
    counts: Sequence[int] = COUNTS,
    temperature: float = TEMPERATURE,
) -> Predictions:
    """Let the k training views with the largest cosine vote, weighted; average over a recording's views.

    A neighbour's vote has the weight exp(cosine / temperature), as in facebookresearch/dino; the votes for a view are
    scaled to the sum 1 (unverified option, see docs/method.md). counts: candidates for k; those above the number of
    training views are left out. Scores are shares of the votes.

    Raises:
        ConfigError, StageError: as `probe`; or every k is too large, or the temperature is not positive.
    """
    if not temperature > 0:
        raise ConfigError(f"the temperature of the neighbours' votes is {temperature:g}. It must be more than 0.")
    most = len(train) or max(counts, default=0)  # `probe` raises the error for no training views.
    if min(counts, default=0) > most:
        raise ConfigError(f"k is one of {list(counts)}, but there are {len(train)} training views. Lower it.")
    possible = sorted((count for count in counts if count <= most), reverse=True)
    return probe(partial(_votes, temperature), "k", possible, train, test, classes, seed, held_out_share)


def _votes(
    temperature: float, train: Examples, queries: Examples, classes: int, counts: Sequence[float]
) -> Iterator[Attempt]:
    # While k is chosen there are fewer training views; a larger k then uses all of them.
    limits = [min(int(count), len(train)) for count in counts]
    nearest, cosines = _nearest(queries.features, train.features, max(limits))
    # Relative to the nearest, because exp would overflow at a small temperature.
    weights = np.exp((cosines - cosines[:, :1]) / temperature)
    voters, views = train.labels[nearest], np.arange(len(queries))[:, None]
    for count, limit in zip(counts, limits, strict=True):
        scores = np.zeros((len(queries), classes))
        np.add.at(scores, (views, voters[:, :limit]), weights[:, :limit])
        yield Attempt(count, scores / scores.sum(axis=1, keepdims=True))


def _nearest(queries: np.ndarray, known: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `count` rows of `known` with the largest cosine, largest first, int64 [queries, count], and the
    cosines, float64. A feature of zeros has the cosine 0 with all.
    """
    known_directions = directions(known).astype(np.float32).T
    rows, cosines = np.empty((len(queries), count), np.int64), np.empty((len(queries), count))
    step = max(1, CHUNK // len(known))
    for first in range(0, len(queries), step):
        part = slice(first, first + step)
        all_cosines = directions(queries[part]).astype(np.float32) @ known_directions
        largest = np.argpartition(-all_cosines, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(all_cosines, largest, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        rows[part], cosines[part] = (np.take_along_axis(own, order, axis=1) for own in (largest, values))
    return rows, cosines
