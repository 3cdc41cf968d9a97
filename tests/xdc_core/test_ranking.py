"""Ranks and recalls, counted fairly where cosines are equal."""

import tracemalloc
from itertools import pairwise, permutations
from math import comb

import numpy as np
import pytest

from xdc_core.clustering.preprocess import unit_length
from xdc_core.probes import ranking
from xdc_core.probes.ranking import class_chance, class_recall, mean_ranks, partner_ranks, partner_recall

LABELS = np.array([0, 1, 1, 0, 2, 1])


def coarse(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions of which many are equal: only nine in the plane, or none."""
    rng = np.random.default_rng(seed)
    both = rng.integers(-1, 2, size=(2, count, 2)).astype(np.float64)
    return unit_length(both[0]), unit_length(both[1])


def by_all_orders(queries: np.ndarray, found: np.ndarray, k: int) -> tuple[np.ndarray, float, float]:
    """Mean rank of each partner, recall of the partner and of the class: averages over all orders of equal ones."""
    means, partner, same = [], [], []
    for number, query in enumerate(queries):
        cosines = np.round(found @ query, 9)
        orders = [
            order
            for order in permutations(range(len(found)))
            if all(cosines[one] >= cosines[two] for one, two in pairwise(order))
        ]
        means.append(np.mean([order.index(number) + 1 for order in orders]))
        partner.append(np.mean([number in order[:k] for order in orders]))
        same.append(np.mean([(LABELS[list(order[:k])] == LABELS[number]).any() for order in orders]))
    return np.array(means), float(np.mean(partner)), float(np.mean(same))


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_among_equal_cosines_every_order_counts_alike(seed: int, k: int) -> None:
    queries, found = coarse(6, seed)
    means, partner, same = by_all_orders(queries, found, k)
    nearer, equal = partner_ranks(queries, found)
    assert equal.max() > 1
    np.testing.assert_allclose(mean_ranks(nearer, equal), means)
    assert partner_recall(nearer, equal, k) == pytest.approx(partner)
    assert class_recall(queries, found, LABELS, [k]) == [pytest.approx(same)]


def test_without_equal_cosines_ranks_are_those_of_a_sorted_list() -> None:
    rng = np.random.default_rng(0)
    queries, found = unit_length(rng.normal(size=(50, 8))), unit_length(rng.normal(size=(50, 8)))
    order = np.argsort(-(queries @ found.T), axis=1)
    places = np.argmax(order == np.arange(50)[:, None], axis=1)
    nearer, equal = partner_ranks(queries, found)
    assert (nearer == places).all()
    assert (equal == 1).all()
    assert (mean_ranks(nearer, equal) == places + 1).all()
    assert partner_recall(nearer, equal, 10) == pytest.approx((places < 10).mean())
    labels = rng.integers(7, size=50)
    expected = [(labels[order[:, :k]] == labels[:, None]).any(axis=1).mean() for k in (1, 5)]
    assert class_recall(queries, found, labels, (1, 5)) == pytest.approx(expected)


def test_features_that_are_all_the_same_give_exactly_chance() -> None:
    same = np.full((40, 3), 3**-0.5)
    labels = np.arange(40) % 4
    assert partner_recall(*partner_ranks(same, same), 5) == pytest.approx(5 / 40)
    assert class_recall(same, same, labels, (1, 5, 10)) == pytest.approx(class_chance(labels, (1, 5, 10)))


def test_chance_is_the_share_of_draws_that_hit() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2])
    for k, found in zip((1, 4, 10), class_chance(labels, (1, 4, 10)), strict=True):
        missed = [comb(10 - size, k) / comb(10, k) for size in (6, 3, 1) for _ in range(size)]
        assert found == pytest.approx(1 - np.mean(missed))
    rng = np.random.default_rng(0)
    drawn = [(labels[rng.permutation(10)[:4]] == label).any() for _ in range(1000) for label in labels]
    assert class_chance(labels, [4])[0] == pytest.approx(np.mean(drawn), abs=0.02)


def test_more_than_there_is_finds_everything() -> None:
    queries, found = coarse(6, 0)
    assert partner_recall(*partner_ranks(queries, found), 10) == 1
    assert class_recall(queries, found, LABELS, [10]) == [1]
    assert class_chance(LABELS, [10]) == [1]


def test_chunks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, found = coarse(60, 1)
    labels = np.arange(60) % 7
    ranks, recalls = partner_ranks(queries, found), class_recall(queries, found, labels, (1, 5, 10))
    monkeypatch.setattr(ranking, "CHUNK", 7 * 60)
    assert (np.stack(partner_ranks(queries, found)) == np.stack(ranks)).all()
    assert class_recall(queries, found, labels, (1, 5, 10)) == recalls


def test_memory_is_that_of_a_chunk_not_of_all_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "CHUNK", 1 << 17)
    points = unit_length(np.random.default_rng(0).normal(size=(2500, 4)))
    tracemalloc.start()
    partner_ranks(points, points)
    class_recall(points, points, np.arange(2500) % 9, (1, 10))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2500 * 2500 * 8 / 5
