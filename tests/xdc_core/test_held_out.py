"""Which training recordings are held out to choose a hyper-parameter."""

import numpy as np
import pytest

from shards.errors import ConfigError
from tests.xdc_core.gaussians import gaussians
from xdc_core.evaluation.held_out import hold_out


def views(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups: `sizes[c]` recordings of class c with one to four views each, mixed."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    numbers = rng.permutation(1000)[: len(labels)]
    rows = rng.permutation(np.repeat(np.arange(len(labels)), rng.integers(1, 5, len(labels))))
    return labels[rows], numbers[rows]


def held_by_class(labels: np.ndarray, groups: np.ndarray, mask: np.ndarray) -> list[int]:
    return [len(np.unique(groups[mask & (labels == number)])) for number in np.unique(labels)]


@pytest.mark.parametrize("seed", range(5))
def test_no_recording_is_on_both_sides(seed: int) -> None:
    labels, groups = views([20, 7, 2, 31], seed)
    mask, _ = hold_out(labels, groups, 0.3, seed)
    assert mask.any()
    assert not set(groups[mask].tolist()) & set(groups[~mask].tolist())


@pytest.mark.parametrize(
    ("share", "held"),
    [(0.2, [4, 1, 2, 1]), (0.5, [10, 3, 5, 1]), (0.01, [1, 1, 1, 1]), (0.99, [19, 4, 9, 1])],
)
def test_every_class_gives_its_share_but_one_recording_at_least_is_on_either_side(
    share: float, held: list[int]
) -> None:
    labels, groups = views([20, 5, 10, 2])
    mask, single = hold_out(labels, groups, share, seed=1)
    assert held_by_class(labels, groups, mask) == held
    assert single.tolist() == []


def test_a_class_with_a_single_recording_keeps_it_and_is_reported() -> None:
    labels, groups = views([6, 1, 6, 1])
    for seed in range(20):
        mask, single = hold_out(labels, groups, 0.9, seed)
        assert held_by_class(labels, groups, mask) == [5, 0, 5, 0]
        assert single.tolist() == [1, 3]


def test_nothing_is_held_out_where_every_class_has_a_single_recording() -> None:
    labels, groups = views([1, 1, 1])
    mask, single = hold_out(labels, groups, 0.5, seed=0)
    assert not mask.any()
    assert (mask.shape, single.tolist()) == (labels.shape, [0, 1, 2])


def test_the_order_and_the_number_of_views_do_not_matter() -> None:
    labels, groups = views([12, 9, 15])
    mask, _ = hold_out(labels, groups, 0.3, seed=4)
    _, firsts = np.unique(groups, return_index=True)
    fewer, _ = hold_out(labels[firsts], groups[firsts], 0.3, seed=4)
    assert set(groups[mask].tolist()) == set(groups[firsts][fewer].tolist())


def test_the_same_seed_holds_out_the_same_and_another_one_others() -> None:
    labels, groups = views([20, 20])
    mask, _ = hold_out(labels, groups, 0.2, seed=4)
    assert (mask == hold_out(labels, groups, 0.2, seed=4)[0]).all()
    assert not (mask == hold_out(labels, groups, 0.2, seed=5)[0]).all()


def test_every_recording_is_held_out_equally_often() -> None:
    some = gaussians(40, 1.0, classes=4)
    times = sum(hold_out(some.labels, some.groups, 0.3, seed)[0].astype(int) for seed in range(600))
    # 180 of 600 each, with a deviation of 11.
    assert min(times) > 125
    assert max(times) < 235


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, 20.0, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"held-out share is .* more than 0 and less than 1"):
        hold_out(np.array([0, 1]), np.array([0, 1]), share, seed=0)


def test_an_original_of_several_classes_is_on_one_side_and_no_class_loses_its_last() -> None:
    rng = np.random.default_rng(0)
    for seed in range(50):
        # Eight originals, every one with recordings of one to three of four classes.
        pairs = [(label, group) for group in range(8) for label in rng.permutation(4)[: rng.integers(1, 4)]]
        labels, groups = np.array(pairs * 2).T
        recordings = np.arange(len(labels)) % len(pairs)
        mask, kept = hold_out(labels, recordings, 0.5, seed, groups)
        assert mask.any()
        assert not set(groups[mask].tolist()) & set(groups[~mask].tolist())
        assert set(labels[~mask].tolist()) == set(labels.tolist())
        assert kept.tolist() == [label for label in np.unique(labels) if not mask[labels == label].any()]


def test_classes_of_which_no_original_can_be_held_out_are_returned() -> None:
    labels, originals = np.array([(0, 0), (0, 1), (1, 0), (2, 1), (3, 2), (3, 3)]).T
    mask, kept = hold_out(labels, np.arange(6), 0.5, 0, originals)
    assert set(labels[mask].tolist()) == {3}
    assert kept.tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", [0, 1])
def test_recordings_of_several_classes_are_drawn_as_they_always_were(seed: int) -> None:
    # Evaluations that are done stay what they are: every class draws for itself.
    spans = (range(10), range(5, 15), range(20, 30))
    labels, groups = np.array([(label, group) for label, span in enumerate(spans) for group in span]).T
    rng = np.random.default_rng(seed)
    expected = {group for span in spans for group in rng.permutation(np.array(span))[:2].tolist()}
    mask, single = hold_out(labels, groups, 0.2, seed)
    assert set(groups[mask].tolist()) == expected
    assert (mask == np.isin(groups, list(expected))).all()
    assert single.tolist() == []


def test_what_is_held_out_of_groups_of_one_class_is_a_share_of_a_permutation() -> None:
    # Evaluations that are done stay what they are.
    labels, groups = views([20, 7, 2, 31])
    rng = np.random.default_rng(6)
    expected: set[int] = set()
    for label, wanted in ((0, 6), (1, 2), (2, 1), (3, 9)):
        expected |= set(rng.permutation(np.unique(groups[labels == label]))[:wanted].tolist())
    assert set(groups[hold_out(labels, groups, 0.3, seed=6)[0]].tolist()) == expected
