"""Near-duplicates, balanced subsets and planes: what they do with features and tables that are known."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from shards.errors import ConfigError
from xdc_core.clustering.preprocess import unit_length
from xdc_core.clustering.projection import fit_projection
from xdc_core.curation import neighbours
from xdc_core.curation.duplicates import Duplicates, find_duplicates, keep_list, pair_table, summary
from xdc_core.curation.expression import Condition
from xdc_core.curation.neighbours import Points, Spans, cluster_starts, find_neighbours
from xdc_core.curation.subset import agreeing, balanced, manifest_rows
from xdc_core.curation.threshold import find_threshold

WIDTH = 32


def points_of(vectors: np.ndarray) -> Points:
    return Points(np.array([f"clip-{number:05d}" for number in range(len(vectors))]), unit_length(vectors))


def drawn(clips: int, seed: int = 0) -> np.ndarray:
    """Features that are alike in groups, as those of clips are: float32 [clips, WIDTH]."""
    dice = np.random.default_rng(seed)
    places = dice.normal(size=(8, WIDTH))
    return (places[dice.integers(8, size=clips)] + dice.normal(size=(clips, WIDTH))).astype(np.float32)


def copies(vectors: np.ndarray, noise: float, seed: int = 1) -> np.ndarray:
    return (vectors + np.random.default_rng(seed).normal(size=vectors.shape) * noise).astype(np.float32)


def clip_table(count: int, **columns: list[object]) -> pa.Table:
    """The index of clips of one source each."""
    values = {
        "key": [f"clip-{number:05d}" for number in range(count)],
        "source": [f"{number}.mp4" for number in range(count)],
        "start_s": [0.0] * count,
        "duration_s": [2.0] * count,
        "split": [""] * count,
        "mp4_size": [1000] * count,
        "flac_size": [500] * count,
    }
    return pa.table(values | columns)


def found_in(vectors: np.ndarray, clips: pa.Table | None = None, **options: object) -> Duplicates:
    points = points_of(vectors)
    centres = cluster_starts(points, None, 0, 1)
    settings = {"learn_splits": None, **options}
    return find_duplicates(points, clips or clip_table(len(points)), centres, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("clips", "planted"), [(400, 3), (400, 60), (400, 380), (3000, 5), (3000, 1000)])
def test_planted_copies_are_found_at_a_threshold_that_nobody_gave(clips: int, planted: int) -> None:
    vectors = drawn(clips)
    found = found_in(np.concatenate([vectors, copies(vectors[:planted], 0.03)]))
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    right = {(number, clips + number) for number in range(planted)}
    assert len(pairs & right) >= 0.95 * planted
    assert len(pairs & right) >= 0.95 * len(pairs)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("clips", [6, 50, 400, 3000])
def test_without_copies_nothing_is_a_duplicate(clips: int, seed: int) -> None:
    found = found_in(drawn(clips, seed))
    assert found.threshold is None
    assert found.kept.all()
    assert summary(found)["duplicates"] == 0


def test_exact_copies_do_not_hide_those_that_were_encoded_again() -> None:
    vectors = drawn(500)
    found = found_in(np.concatenate([vectors, vectors[:40], copies(vectors[40:80], 0.03)]))
    assert int((~found.kept).sum()) == 80


def test_no_clip_that_is_kept_repeats_another_and_every_other_repeats_a_kept_one() -> None:
    vectors = drawn(300)
    # More copies of one clip than neighbours are looked for.
    many = copies(np.repeat(vectors[:1], 3 * neighbours.NEAREST, axis=0), 0.01)
    found = found_in(np.concatenate([vectors, many, copies(vectors[5:9], 0.01)]), threshold=0.98)
    points = points_of(np.concatenate([vectors, many, copies(vectors[5:9], 0.01)])).vectors
    similar = points @ points.T
    np.fill_diagonal(similar, -1)
    assert similar[np.ix_(found.kept, found.kept)].max() < 0.98
    others = np.flatnonzero(~found.kept)
    assert len(others) == 3 * neighbours.NEAREST + 4
    assert found.kept[found.of[others]].all()
    assert np.allclose(found.similarity[others], similar[others, found.of[others]], atol=1e-5)
    listed = keep_list(found).to_pylist()
    assert sum(row["kept"] for row in listed) == int(found.kept.sum())
    groups = {row["group"] for row in listed if row["group"] is not None}
    assert len(groups) == summary(found)["groups"] == 5


def test_clips_of_one_source_are_compared_only_if_asked_and_if_they_do_not_overlap() -> None:
    vectors = drawn(300)
    clips = [*drawn(300), *copies(vectors[:3], 0.01)]
    starts = [0.0] * 300 + [10.0, 1.0, 10.0]  # The second copy overlaps its original.
    sources = [f"{number}.mp4" for number in range(300)] + ["0.mp4", "1.mp4", "elsewhere.mp4"]
    table = clip_table(303, source=list(sources), start_s=list(starts))
    apart = found_in(np.array(clips), table, threshold=0.98)
    assert set(zip(apart.first.tolist(), apart.second.tolist(), strict=True)) == {(2, 302)}
    asked = found_in(np.array(clips), table, threshold=0.98, same_source=True)
    assert set(zip(asked.first.tolist(), asked.second.tolist(), strict=True)) == {(2, 302), (0, 300)}


def test_a_leak_is_named_and_costs_the_clip_to_learn_from() -> None:
    vectors = drawn(200)
    splits: list[object] = ["train"] * 200 + ["test"] * 3
    table = clip_table(203, split=splits, mp4_size=[5000] * 200 + [10] * 3)
    found = found_in(np.concatenate([vectors, copies(vectors[:3], 0.01)]), table, learn_splits=["train"])
    assert summary(found)["leaks"] == {"test / train": 3}
    assert np.flatnonzero(~found.kept).tolist() == [0, 1, 2]
    assert [row["leak"] for row in pair_table(found).to_pylist()] == [True] * 3


def test_the_better_copy_is_kept() -> None:
    vectors = drawn(200)
    table = clip_table(202, mp4_size=[1000] * 200 + [4000, 100])
    found = found_in(np.concatenate([vectors, copies(vectors[:2], 0.01)]), table)
    assert np.flatnonzero(~found.kept).tolist() == [0, 201]


def test_clusters_find_what_comparing_all_pairs_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = drawn(2500)
    points = points_of(np.concatenate([vectors, copies(vectors[:500], 0.05)]))
    spans = Spans(np.arange(len(points)))
    clustered = find_neighbours(points, cluster_starts(points, None, 0, 1), spans)
    # Here the run's own clusters are few enough: their centres are used.
    own = cluster_starts(points, np.arange(len(points)) % 5, 0, 1)
    assert own.shape == (5, WIDTH)
    monkeypatch.setattr(neighbours, "WHOLE", len(points))
    whole = find_neighbours(points, cluster_starts(points, None, 0, 1), spans)
    copied = slice(0, 500)
    assert (clustered.row[copied, 0] == whole.row[copied, 0]).mean() > 0.99
    assert (whole.row[copied, 0] == np.arange(2500, 3000)).mean() > 0.95
    assert np.diff(np.sort(whole.row, axis=1), axis=1).min() > 0  # No neighbour comes twice.


def test_a_threshold_needs_clips() -> None:
    assert find_threshold(np.array([0.9, -np.inf, 0.8], np.float32)).threshold is None


def test_conditions_read_columns_and_execute_nothing() -> None:
    table = pa.table({"motion": [1.0, 3.0, 5.0], "label": ["a", None, "b"], "shots": [1, 2, 3]})
    assert Condition("motion > 2 and not (label in ['b'])").holds(table).to_pylist() == [False, True, False]
    assert Condition("2 <= motion < 5 or label == 'a'").holds(table).to_pylist() == [True, True, False]
    assert Condition("motion > -1").columns == ["motion"]
    for text in ("__import__('os').system('true')", "motion.real > 1", "1 < 2", "motion >", "motion + 1 > 2", "motion"):
        with pytest.raises(ConfigError, match="--where"):
            Condition(text)
    with pytest.raises(ConfigError, match="no column 'loudness'"):
        Condition("loudness > 2").holds(table)
    with pytest.raises(ConfigError, match="does not fit"):
        Condition("label > 2").holds(table)
    with pytest.raises(ConfigError, match="was not measured"):
        Condition("motion > 2").holds(pa.table({"motion": pa.array([1.0, None])}))


def test_clusters_agree_after_they_were_matched() -> None:
    first, second = np.array([0, 0, 0, 1, 1, -1, 2]), np.array([1, 1, 0, 0, 0, 0, -1])
    assert agreeing(first, second).tolist() == [True, True, False, True, True, False, False]


def test_a_balanced_subset_has_the_asked_clips_of_each_cluster() -> None:
    clusters, distances = np.array([0, 0, 0, 1, 1, -1]), np.array([3, 1, 2, 5, 4, 0], np.float32)
    chosen = np.array([True, True, True, True, False, True])
    kept = {choice: balanced(chosen, clusters, distances, 1, choice, 0) for choice in ("nearest", "farthest", "random")}
    assert np.flatnonzero(kept["nearest"]).tolist() == [1, 3]
    assert np.flatnonzero(kept["farthest"]).tolist() == [0, 3]
    assert (
        np.flatnonzero(kept["random"]).tolist()
        == np.flatnonzero(balanced(chosen, clusters, distances, 1, "random", 0)).tolist()
    )
    drawn_by_seed = {
        tuple(np.flatnonzero(balanced(chosen, clusters, distances, 1, "random", seed))) for seed in range(20)
    }
    assert drawn_by_seed == {(0, 3), (1, 3), (2, 3)}


def test_manifest_rows_are_sorted_and_end_where_clips_end() -> None:
    clips = pa.table(
        {
            "source": ["b", "a"],
            "start_s": [0.5, 2.0],
            "duration_s": [1.125, 1.0],
            "split": ["train", None],
            "label": [None, "x"],
        }
    )
    assert manifest_rows(clips, ["b", "a"], ["label"]) == [
        {"path": "a", "start_s": "2.000000", "end_s": "3.000000", "split": "", "label": "x"},
        {"path": "b", "start_s": "0.500000", "end_s": "1.625000", "split": "train", "label": ""},
    ]


def test_a_plane_of_principal_components_has_the_largest_differences_first(tmp_path: Path) -> None:
    features = drawn(300)
    plane = fit_projection(features, "pca", 0)
    places = plane(features)
    assert places.shape == (300, 2)
    assert places[:, 0].var() >= places[:, 1].var() > 0
    assert np.allclose(plane(features[:7]), places[:7], atol=1e-6)


@pytest.mark.slow
def test_umap_places_the_clips_that_it_was_fitted_to() -> None:
    pytest.importorskip("umap")
    features = drawn(60)
    places = fit_projection(features, "umap", 0)(features)
    assert places.shape == (60, 2)
    assert np.isfinite(places).all()
    assert np.array_equal(places, fit_projection(features, "umap", 0)(features))
