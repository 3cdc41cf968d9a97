"""The draws of a training round: uniform over clusters, complete inside them, disjoint over ranks."""

import numpy as np
import pytest
from scipy.stats import chisquare

from xdc_core.compute.seed import derive_seed
from xdc_core.data.sampling import batch_positions, draw_clips

# One cluster with 97 % of the clips, clusters 1 and 5 empty, one with a single clip; in no order.
SIZES = {0: 970, 2: 20, 3: 9, 4: 1}
SKEWED = np.random.default_rng(3).permutation(np.repeat(list(SIZES), list(SIZES.values()))).astype(np.int32)


def test_every_cluster_that_is_not_empty_is_drawn_equally_often() -> None:
    drawn = np.bincount(SKEWED[draw_clips(SKEWED, 1000, True, 0)], minlength=6)
    assert drawn.tolist() == [250, 0, 250, 250, 250, 0]


@pytest.mark.parametrize("draws", [1, 3, 5, 7, 1001, 1003])
def test_when_it_does_not_divide_the_clusters_differ_by_one(draws: int) -> None:
    drawn = np.bincount(SKEWED[draw_clips(SKEWED, draws, True, 0)], minlength=6)
    assert drawn.sum() == draws
    assert drawn[[1, 5]].tolist() == [0, 0]
    assert np.ptp(drawn[[0, 2, 3, 4]]) == 1


def test_which_cluster_gets_one_more_is_random() -> None:
    extra = [SKEWED[draw_clips(SKEWED, 1, True, seed)[0]] for seed in range(400)]
    found = np.bincount(extra, minlength=6)[[0, 2, 3, 4]]
    assert chisquare(found).pvalue > 0.01


def part_of_the_order(labels: np.ndarray) -> np.ndarray:
    """A tenth of 4000 draws, from the middle: in all of them clusters are equal by construction, here by chance."""
    return draw_clips(labels, 4000, True, 1)[1800:2200]


def p_uniform(labels: np.ndarray, drawn: np.ndarray) -> float:
    """The p-value of the hypothesis that the clusters that are not empty are drawn alike."""
    counts = np.bincount(labels[drawn], minlength=labels.max() + 1)
    return float(chisquare(counts[np.bincount(labels) > 0]).pvalue)


# With empty clusters, and the same skew with none.
LABELS = pytest.mark.parametrize("labels", [SKEWED, np.unique(SKEWED, return_inverse=True)[1]], ids=["empty", "full"])


@LABELS
def test_any_part_of_the_order_is_uniform_over_clusters(labels: np.ndarray) -> None:
    assert p_uniform(labels, part_of_the_order(labels)) > 0.01


@LABELS
def test_a_sampler_with_the_slip_of_deepcluster_would_not_be(labels: np.ndarray) -> None:
    # The published code draws row numbers as we do, but looks them up in a list that was sorted by cluster.
    sorted_by_cluster = np.argsort(labels, kind="stable")
    assert p_uniform(labels, sorted_by_cluster[part_of_the_order(labels)]) < 1e-6
    # Drawing over clips instead of clusters is found out, too.
    assert p_uniform(labels, draw_clips(labels, 400, False, 1)) < 1e-6


def test_inside_a_cluster_clips_are_drawn_uniformly() -> None:
    # Draws that cover a tenth of the large cluster, over many seeds.
    counts = np.zeros(len(SKEWED), int)
    for seed in range(200):
        counts += np.bincount(draw_clips(SKEWED, 400, True, seed), minlength=len(SKEWED))
    large = counts[SKEWED == 0]
    assert large.sum() == 200 * 100
    assert chisquare(large).pvalue > 0.01


@pytest.mark.parametrize("uniform", [True, False])
def test_every_clip_of_a_cluster_is_drawn_once_before_any_is_drawn_twice(uniform: bool) -> None:
    labels = np.array([7] * 50 + [2] * 30)
    counts = np.bincount(draw_clips(labels, 120, uniform, 0), minlength=80)
    if uniform:
        assert sorted(counts[:50].tolist()) == [1] * 40 + [2] * 10
        assert set(counts[50:].tolist()) == {2}
    else:
        assert sorted(counts.tolist()) == [1] * 40 + [2] * 40


def test_without_uniform_clusters_do_not_matter() -> None:
    counts = np.bincount(draw_clips(SKEWED, 3000, False, 0), minlength=len(SKEWED))
    assert set(counts.tolist()) == {3}


def test_rows_are_given_not_places_in_a_sorted_list() -> None:
    labels = np.array([1, 0, 1, 0, 1, 0])
    assert sorted(draw_clips(labels, 6, True, 0).tolist()) == [0, 1, 2, 3, 4, 5]


def test_the_same_seed_gives_the_same_draws_and_another_one_others() -> None:
    one = draw_clips(SKEWED, 500, True, 5)
    assert one.dtype == np.uint32
    assert (one == draw_clips(SKEWED, 500, True, 5)).all()
    assert not (one == draw_clips(SKEWED, 500, True, 6)).all()


def test_clusters_are_mixed_in_the_order() -> None:
    labels = np.repeat(np.arange(4), 100)
    drawn = labels[draw_clips(labels, 400, True, 0)]
    changes = int((np.diff(drawn) != 0).sum())
    assert changes > 250  # 300 on average; in order of clusters there would be 3.


def test_there_must_be_something_to_draw_from() -> None:
    with pytest.raises(ValueError, match="no clip"):
        draw_clips(np.empty(0, np.int32), 5, True, 0)


@pytest.mark.parametrize(("batch", "ranks"), [(32, 1), (32, 2), (12, 3)])
def test_ranks_do_equal_work_and_no_draw_is_made_twice_or_left_out(batch: int, ranks: int) -> None:
    steps = 5
    taken = [[n for step in range(steps) for n in batch_positions(step, batch, rank, ranks)] for rank in range(ranks)]
    assert {len(part) for part in taken} == {steps * batch // ranks}
    assert sorted(n for part in taken for n in part) == list(range(steps * batch))


def test_a_step_holds_the_same_draws_for_any_number_of_ranks() -> None:
    for step in (0, 3):
        alone = set(batch_positions(step, 12, 0, 1))
        assert alone == {n for rank in range(3) for n in batch_positions(step, 12, rank, 3)}


def test_seeds_depend_on_every_part_and_on_their_order() -> None:
    seeds = {derive_seed(*parts) for parts in [(0, 1, "a"), (1, 0, "a"), (0, 1, "b"), (0, 1), (0, 11, "a"), (0, "1/a")]}
    assert len(seeds) == 5  # (0, 1, "a") and (0, "1/a") are written alike.
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(0, 1, "train", "video") == derive_seed(0, 1, "train", "video")
