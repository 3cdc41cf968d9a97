"""Nearest neighbours, against all similarities at once."""

import tracemalloc

import numpy as np
import pytest

from shards.errors import ConfigError
from tests.xdc_core.gaussians import gaussians
from xdc_core.evaluation.examples import Examples
from xdc_core.evaluation.predictions import accuracy
from xdc_core.probes import neighbours as module
from xdc_core.probes.neighbours import neighbours

TRAIN, TEST = gaussians(60, 0.5, views=2), gaussians(30, 0.5, views=2, first=1000)


def expected(train: Examples, test: Examples, k: int, temperature: float) -> np.ndarray:
    """Scores float64 [test recordings, 5], one view at a time."""
    known = train.features / np.linalg.norm(train.features, axis=1, keepdims=True)
    by_view = []
    for view in test.features:
        cosines = known @ view / np.linalg.norm(view)
        nearest = np.argsort(-cosines)[:k]
        votes = np.bincount(train.labels[nearest], np.exp(cosines[nearest] / temperature), minlength=5)
        by_view.append(votes / votes.sum())
    return np.array([np.mean(np.array(by_view)[test.groups == group], axis=0) for group in np.unique(test.groups)])


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (7, 1.0), (120, 0.2)])
def test_votes_weigh_the_exponential_of_the_cosine(k: int, temperature: float) -> None:
    predictions = neighbours(TRAIN, TEST, 5, seed=0, counts=(k,), temperature=temperature)
    assert predictions.chosen["k"] == k
    np.testing.assert_allclose(predictions.scores, expected(TRAIN, TEST, k, temperature), atol=1e-4)


def test_the_number_of_neighbours_is_chosen_well() -> None:
    # Labels of which two in five are wrong: a single neighbour is right less often than many.
    train, test = gaussians(500, 3.0), gaussians(200, 3.0, first=1000)
    rng = np.random.default_rng(0)
    wrong = np.where(rng.random(500) < 0.4, rng.integers(5, size=500), train.labels)
    noisy = Examples(train.features, wrong, train.groups)
    chosen = neighbours(noisy, test, 5, seed=0)
    assert chosen.chosen["k"] >= 10
    assert accuracy(chosen) > accuracy(neighbours(noisy, test, 5, seed=0, counts=(1,))) + 0.2


def test_lengths_do_not_matter_and_a_feature_of_zeros_is_no_trouble() -> None:
    lengths = np.random.default_rng(0).uniform(0.1, 10, (len(TRAIN), 1)).astype(np.float32)
    longer = Examples(TRAIN.features * lengths, TRAIN.labels, TRAIN.groups)
    one, two = (neighbours(train, TEST, 5, seed=0) for train in (TRAIN, longer))
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-4)
    features = TEST.features.copy()
    features[3] = 0
    assert np.isfinite(neighbours(TRAIN, Examples(features, TEST.labels, TEST.groups), 5, seed=0).scores).all()


def test_chunks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = neighbours(TRAIN, TEST, 5, seed=0)
    monkeypatch.setattr(module, "CHUNK", 7 * len(TRAIN))
    parts = neighbours(TRAIN, TEST, 5, seed=0)
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-5)
    assert parts.chosen == whole.chosen


def test_memory_is_that_of_a_chunk_not_of_all_similarities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 1 << 18)
    train, test = gaussians(4000, 1.0, width=4), gaussians(4000, 1.0, width=4, first=5000)
    tracemalloc.start()
    neighbours(train, test, 5, seed=0, counts=(5,))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4000 * 4000 * 4 / 4


def test_candidates_beyond_the_training_views_are_left_out() -> None:
    tried = neighbours(gaussians(12, 3.0), TEST, 5, seed=0).chosen["tried"]
    assert [row["k"] for row in tried] == [10, 5, 1]


def test_only_candidates_beyond_the_training_views_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"k is one of \[50, 20\], but there are 12 training views\. Lower it"):
        neighbours(gaussians(12, 3.0), TEST, 5, seed=0, counts=(50, 20))


@pytest.mark.parametrize("counts", [(), (0, 5), (-1,)])
def test_candidates_that_are_none_are_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="candidates for k are"):
        neighbours(TRAIN, TEST, 5, seed=0, counts=counts)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature of the neighbours' votes is"):
        neighbours(TRAIN, TEST, 5, seed=0, temperature=temperature)


def test_a_small_temperature_leaves_the_nearest_neighbour() -> None:
    small = neighbours(TRAIN, TEST, 5, seed=0, counts=(20,), temperature=1e-7)
    one = neighbours(TRAIN, TEST, 5, seed=0, counts=(1,))
    np.testing.assert_allclose(small.scores, one.scores, atol=1e-3)
