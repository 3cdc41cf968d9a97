"""Scores from counts, against scikit-learn on the clips themselves."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from xdc_core.clustering.agreement import SCORES, Contingency, agreement


def clips(seed: int, count: int = 300) -> tuple[np.ndarray, list[str]]:
    """Clusters that follow the labels in two of three clips; cluster numbers with gaps."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(6, size=count)
    clusters = np.where(rng.random(count) < 0.66, truth, rng.integers(6, size=count)) * 3
    return clusters.astype(np.int32), [f"label {value}" for value in truth]


def counted(clusters: np.ndarray, labels: list[str | None] | list[str]) -> Contingency:
    contingency = Contingency()
    contingency.add(clusters, list(labels))
    return contingency


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_are_those_of_scikit_learn_on_the_clips(seed: int) -> None:
    clusters, labels = clips(seed)
    found = agreement(counted(clusters, labels))
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters), abs=1e-6)
    assert found["ami"] == pytest.approx(adjusted_mutual_info_score(labels, clusters), abs=1e-6)
    table = contingency_matrix(labels, clusters)
    assert found["purity"] == pytest.approx(table.max(axis=0).sum() / 300, abs=1e-6)
    assert (found["clips"], found["labels"]) == (300, 6)
    assert 0.2 < found["ami"] < found["nmi"] < 0.8


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_entropy_is_that_of_the_labels_inside_a_cluster_in_bits_averaged_over_clips(seed: int) -> None:
    clusters, labels = clips(seed)
    bits = {
        number: entropy(np.unique(np.array(labels)[clusters == number], return_counts=True)[1], base=2)
        for number in set(clusters.tolist())
    }
    expected = np.mean([bits[number] for number in clusters.tolist()])
    assert 0.5 < expected < np.log2(6)
    assert agreement(counted(clusters, labels))["entropy"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_accuracy_is_that_of_the_best_of_all_ways_to_name_the_clusters(seed: int) -> None:
    clusters, labels = clips(seed)
    table = contingency_matrix(labels, clusters)
    best = max(sum(table[name, number] for number, name in enumerate(names)) for names in permutations(range(6)))
    assert agreement(counted(clusters, labels))["accuracy"] == pytest.approx(best / 300, abs=1e-6)


def test_a_label_names_one_cluster_only_and_a_cluster_has_one_name() -> None:
    # Label a fills two clusters, of which one may be called a: 4 of its 7 clips. Purity counts both.
    split = agreement(counted(np.array([0] * 4 + [1] * 3 + [2] * 3), ["a"] * 7 + ["b"] * 3))
    assert (split["accuracy"], split["purity"], split["entropy"]) == (0.7, 1, 0)
    # Labels a and b share the one cluster; c has its own.
    shared = agreement(counted(np.array([0] * 7 + [1] * 3), ["a"] * 4 + ["b"] * 3 + ["c"] * 3))
    assert (shared["accuracy"], shared["purity"]) == (0.7, 0.7)
    assert shared["entropy"] == pytest.approx(0.7 * entropy([4, 3], base=2), abs=1e-6)
    # The first cluster's most frequent label is a, but then the second would have none.
    crossed = agreement(counted(np.array([0] * 9 + [1] * 4), ["a"] * 5 + ["b"] * 4 + ["a"] * 4))
    assert crossed["accuracy"] == round(8 / 13, 6)


def test_neither_the_order_of_clips_nor_their_parts_matter() -> None:
    clusters, labels = clips(0)
    whole = agreement(counted(clusters, labels))
    order = np.random.default_rng(5).permutation(300)
    parts = Contingency()
    for part in np.array_split(order, 7):
        parts.add(clusters[part], [labels[n] for n in part])
    assert agreement(parts) == whole


def test_names_of_clusters_and_labels_do_not_matter() -> None:
    clusters, labels = clips(0)
    renamed = agreement(counted(100 - clusters, [f"x{value[::-1]}" for value in labels]))
    assert renamed == agreement(counted(clusters, labels))


def test_clips_without_a_label_are_left_out() -> None:
    clusters, labels = clips(0)
    some: list[str | None] = [None if n % 4 == 0 else label for n, label in enumerate(labels)]
    kept = [n for n in range(300) if n % 4]
    assert agreement(counted(clusters, some)) == agreement(counted(clusters[kept], [labels[n] for n in kept]))
    assert agreement(counted(clusters, some))["clips"] == 225


@pytest.mark.parametrize("labels", [["a"] * 10, [None] * 10, ["a"] * 4 + [None] * 6])
def test_with_fewer_than_two_labels_there_is_no_score(labels: list[str | None]) -> None:
    found = agreement(counted(np.arange(10), labels))
    assert [found[name] for name in SCORES] == [None] * 5
    assert found["clips"] == 10 - labels.count(None)
    assert found["labels"] == len(set(labels) - {None})


def test_no_clip_at_all_gives_no_score() -> None:
    assert agreement(Contingency()) == {"clips": 0, "labels": 0} | dict.fromkeys(SCORES)


def test_perfect_and_unrelated_clusters_have_the_ends_of_the_scale() -> None:
    labels = [str(n % 5) for n in range(500)]
    perfect = agreement(counted(np.arange(500) % 5 + 7, labels))
    assert [perfect[name] for name in SCORES] == [1, 1, 1, 0, 1]
    assert str(perfect["entropy"]) == "0.0"  # Not -0.0, which would stand in scores.json.
    unrelated = agreement(counted(np.arange(500) // 5 % 5, labels))
    assert unrelated["nmi"] == pytest.approx(0, abs=1e-6)
    assert unrelated["ami"] < 0
    assert unrelated["purity"] == unrelated["accuracy"] == pytest.approx(0.2)
    assert unrelated["entropy"] == pytest.approx(np.log2(5), abs=1e-6)


def test_one_cluster_for_all_is_as_pure_as_the_largest_label() -> None:
    found = agreement(counted(np.zeros(10, int), ["a"] * 7 + ["b"] * 3))
    assert (found["nmi"], found["purity"], found["accuracy"]) == (0, 0.7, 0.7)


def test_a_label_and_a_cluster_for_each_clip_must_be_given() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Contingency().add(np.arange(3), ["a", "b"])
