"""Near-duplicates, balanced subsets and planes: what they do with features and tables that are known."""

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from shards.corpus.index import shard_names
from shards.errors import ConfigError
from shards.store.parquet import write_parquet
from xdc_core.clustering.preprocess import unit_length
from xdc_core.clustering.projection import fit_projection
from xdc_core.curation import neighbours
from xdc_core.curation.clips import read_keep_list
from xdc_core.curation.duplicates import Duplicates, find_duplicates, keep_list, pair_table, summary
from xdc_core.curation.expression import Condition
from xdc_core.curation.neighbours import Spans, cluster_starts, find_neighbours
from xdc_core.curation.points import RIDGE, Points, read_points
from xdc_core.curation.subset import agreeing, balanced, manifest_rows
from xdc_core.curation.threshold import find_threshold
from xdc_core.data.features import source_part
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

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


@pytest.mark.parametrize(("clips", "planted"), [(400, 3), (400, 60), (400, 120), (3000, 5), (3000, 700)])
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
    listed = keep_list(found, [], {}).to_pylist()
    assert sum(row["kept"] for row in listed) == int(found.kept.sum())
    groups = {row["group"] for row in listed if row["group"] is not None}
    assert len(groups) == summary(found)["groups"] == 5


def test_a_clip_that_is_left_out_is_similar_to_a_kept_one_in_a_dense_cloud_too() -> None:
    # Everything is near something, and every clip has more near-duplicates than neighbours are kept.
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 900)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    for threshold in (0.9, 0.99, 0.999):
        found = found_in(ring, threshold=threshold)
        vectors = points_of(ring).vectors
        similar = vectors @ vectors.T
        np.fill_diagonal(similar, -1)
        others = np.flatnonzero(~found.kept)
        assert len(others)
        assert found.kept[found.of[others]].all()
        assert similar[others, found.of[others]].min() >= threshold - 1e-6
        assert np.allclose(found.similarity[others], similar[others, found.of[others]], atol=1e-5)
        assert similar[np.ix_(found.kept, found.kept)].max() < threshold
        assert not summary(found)["pairs_complete"]


def test_a_clip_to_learn_from_that_is_similar_to_a_test_clip_is_left_out_whether_that_one_is_kept_or_not() -> None:
    # e0 ~ e1 ~ t1: t1 is similar to the test clip that is left out for the sake of the other one.
    steps = np.deg2rad([0, 20, 40])
    chain = np.zeros((3, WIDTH), np.float32)
    chain[:, 0], chain[:, 1] = np.cos(steps), np.sin(steps)
    away = np.eye(WIDTH, dtype=np.float32)[2:]
    table = clip_table(33, split=["test", "test", "train", *["train"] * 30], mp4_size=[9000, 100, 5000, *[1000] * 30])
    found = found_in(np.concatenate([chain, away]), table, learn_splits=["train"], threshold=0.9)
    assert found.of[:3].tolist() == [-1, 0, 1]
    assert summary(found)["leaked"] == 1
    rows = keep_list(found, [], {}).to_pylist()
    assert [row["group"] for row in rows[:4]] == [0, 0, 0, None]
    assert rows[2]["duplicate_of"] == "clip-00001"


def test_a_leak_is_found_behind_more_copies_in_the_own_split_than_neighbours_are_kept() -> None:
    vectors = drawn(200)
    many = copies(np.repeat(vectors[:1], 3 * neighbours.NEAREST, axis=0), 0.001)
    leak = copies(vectors[:1], 0.05)
    splits: list[object] = ["train"] * (200 + len(many)) + ["test"]
    found = found_in(
        np.concatenate([vectors, many, leak]),
        clip_table(len(splits), split=splits),
        learn_splits=["train"],
        threshold=0.98,
    )
    alike = [0, *range(200, 200 + len(many))]
    assert not found.kept[alike].any()
    assert found.leaked[alike].all()
    assert found.kept[-1]


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


def test_own_clusters_are_used_only_if_none_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "WHOLE", 100)
    points = points_of(drawn(400))
    even, uneven = np.arange(400) % 8, np.where(np.arange(400) < 300, 0, np.arange(400) % 8)
    assert len(cluster_starts(points, even, 0, 1)) == 8
    assert len(cluster_starts(points, uneven, 0, 1)) == 1  # By k-means: 1,000 clips each.


@pytest.mark.parametrize("planted", [0, 40, 120])
def test_the_threshold_calls_few_clips_duplicates_that_have_no_copy(planted: int) -> None:
    wrong, called = 0, 0
    for seed in range(20):
        vectors = drawn(400, seed)
        vectors = np.concatenate([vectors, copies(vectors[:planted], 0.3, seed)])
        points = points_of(vectors)
        near = find_neighbours(points, cluster_starts(points, None, 0, 1), Spans(np.arange(len(points))))
        limit = find_threshold(near.similarity[:, 0]).similarity
        if limit is not None:
            below = near.similarity[:, 0] >= limit
            called += int(below.sum())
            wrong += int(below[planted:400].sum())
    assert wrong <= 0.04 * called if planted else called <= 4
    assert called >= 20 * 1.5 * planted


def test_of_clips_more_than_half_of_which_have_copies_none_are_called_duplicates() -> None:
    vectors = drawn(400)
    found = found_in(np.concatenate([vectors, copies(vectors[:380], 0.03)]))
    assert found.threshold is None


def test_points_are_whitened_and_the_shards_do_not_matter(worked_run: Run, tmp_path: Path) -> None:
    directories = [worked_run.directory(Node("extract", name, 1)) for name in ("video", "audio")]
    points = read_points(worked_run.corpus, directories, tmp_path)
    assert np.allclose(np.linalg.norm(points.vectors, axis=1), 1, atol=1e-5)
    whole = [
        np.concatenate(parts)
        for parts in zip(*(source_part(directories, shard)[1] for shard in shard_names(worked_run.corpus)), strict=True)
    ]
    blocks = []
    for features in whole:
        x = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
        deviation = x.std(axis=0)
        x = x[:, deviation > 1e-6 * deviation.max()] / deviation[deviation > 1e-6 * deviation.max()]
        values, axes = np.linalg.eigh(x.T @ x / len(x))
        blocks.append(unit_length(x @ axes / np.sqrt(values + RIDGE)))
    expected = sum(block @ block.T for block in blocks) / 2
    assert np.allclose(points.vectors @ points.vectors.T, expected, atol=1e-3)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(
    worked_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        read_points(worked_run.corpus, [worked_run.directory(Node("extract", "video", 1))], tmp_path)


def test_a_keep_list_knows_clips_without_features_and_what_it_was_made_of(tmp_path: Path) -> None:
    found = found_in(drawn(20), threshold=0.999)
    write_parquet(tmp_path / "keep.parquet", keep_list(found, ["silent"], {"round": 3}))
    keys = np.array([*found.keys.tolist(), "silent"])
    listed = read_keep_list(tmp_path / "keep.parquet", keys, keys)
    assert listed.kept.tolist() == [True] * 20 + [False]
    assert listed.compared.tolist() == [True] * 20 + [False]
    assert listed.about == {"round": 3}
    with pytest.raises(ConfigError, match="lacks 1 of the run's clips, another first"):
        read_keep_list(tmp_path / "keep.parquet", np.array(["another"]), keys)


def test_a_threshold_needs_clips() -> None:
    assert find_threshold(np.array([0.9, -np.inf, 0.8], np.float32)).similarity is None


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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("label in ('dog')", "is not `column in"),
        ("motion in 5", "is not `column in"),
        ("'x' in label", "is not `column in"),
        ("motion in [label]", "is not a list of numbers or of texts"),
        ("motion in [1, 'a']", "is not a list of numbers or of texts"),
        ("label in []", "is not a list of numbers or of texts"),
        ("motion == [1]", "is not a column, a number or a text"),
        ("1 < 2 and motion > 1", "is not a comparison of a column"),
        (f"motion > {'9' * 30}", "is too large"),
        (f"motion > {'9' * 5000}", "cannot be read"),
        ("motion > True", "is neither a number nor a text"),
        ("motion in ['a']", "does not fit"),
        ("not " * 5000 + "motion > 1", "cannot be read"),
    ],
)
def test_a_wrong_condition_is_an_error_with_the_expression(text: str, words: str) -> None:
    table = pa.table({"motion": [1.0, 3.0], "label": ["a", None]})
    with pytest.raises(ConfigError) as raised:
        Condition(text).holds(table)
    assert words in str(raised.value)
    assert f"--where {text!r}" in str(raised.value)


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
