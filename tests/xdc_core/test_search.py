"""The maps and the index of search, on a finished run and on planted vectors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.corpus.index import in_splits, read_whole_index
from shards.errors import ConfigError, StageError
from shards.progress import silent
from tests.runs import MakeRun
from tests.xdc_core.tasks import task_for
from xdc_core.config.selection import ALL_CLIPS, SelectSettings
from xdc_core.data.features import source_part
from xdc_core.documents.maps import read_maps_document
from xdc_core.documents.search_index import read_search_index
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes, asked_nodes, check_node
from xdc_core.graph.state import node_state
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.search import index_stage, inverted
from xdc_core.search.clips import describe, feature_of, find_clip, unknown_query
from xdc_core.search.exact import Nearest, nearest, parts_of, without
from xdc_core.search.index_stage import index_node, search_index, spaces_of
from xdc_core.search.maps_stage import MAPS, maps_node
from xdc_core.search.measure import measure
from xdc_core.search.page import media_folder
from xdc_core.search.sample import learnt_clips
from xdc_core.search.searched import check_space, features_at, search_run
from xdc_core.search.spaces import Map, Space, read_maps, space_named

ROUND = 1
NO_CLIPS = np.full(100, -1)  # For queries that are no clips.
PICTURES, ACROSS = Space("video", "video"), Space("video", "audio")


def unit(points: np.ndarray) -> np.ndarray:
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def searchable(run: Run, *spaces: Space) -> Run:
    """Make the maps of round 1, and the index of spaces."""
    for node in (maps_node(ROUND), *(index_node(space, ROUND) for space in spaces)):
        run_stage(run, node)
    return run


def features_of(run: Run, modality: str) -> dict[str, np.ndarray]:
    found = features_at(run, modality, ROUND)
    parts = [source_part([found.directory], shard) for shard in found.sizes]
    return {key: row for keys, (rows,) in parts for key, row in zip(keys.tolist(), rows, strict=True)}


def test_what_is_nearest_does_not_depend_on_the_parts_and_is_what_numpy_finds() -> None:
    rng = np.random.default_rng(0)
    vectors, queries = unit(rng.normal(size=(500, 12))), unit(rng.normal(size=(7, 12)))
    similarities = queries @ vectors.T
    right = np.argsort(-similarities, axis=1)[:, :9]
    for size in (64, 7, 1000):
        found = nearest(parts_of(vectors, size), queries, 9)
        np.testing.assert_array_equal(found.rows, right)
        np.testing.assert_allclose(found.similarities, np.take_along_axis(similarities, right, axis=1), atol=1e-6)


def test_only_allowed_rows_are_found_and_missing_ones_are_marked() -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(50, 8)))
    allowed = np.zeros(50, bool)
    allowed[[3, 40]] = True
    found = nearest(parts_of(vectors, 20), vectors[3:4], 4, allowed)
    assert found.rows.tolist() == [[3, 40, -1, -1]]
    assert nearest(parts_of(vectors, 20), vectors[:1], 2, np.zeros(50, bool)).rows.tolist() == [[-1, -1]]


def test_a_query_that_is_a_clip_does_not_find_itself_and_another_one_loses_nothing() -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(50, 8)))
    found = nearest([vectors], vectors[:2], 4)
    own = without(found, np.array([0, -1]), 3)
    assert 0 not in own.rows[0]
    np.testing.assert_array_equal(own.rows, [found.rows[0, 1:], found.rows[1, :3]])
    assert without(nearest([vectors[:2]], vectors[:1], 4), np.array([0]), 3).rows.tolist() == [[1, -1, -1]]


def test_an_approximate_index_reads_as_many_lists_as_its_recall_needs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = unit(rng.normal(size=(4000, 16))), unit(rng.normal(size=(100, 16)))
    made = inverted.build_inverted(tmp_path, lambda: parts_of(vectors, 700), 4000, queries, NO_CLIPS, 0.9, 3, silent)
    assert made.lists == 4000 // inverted.PER_LIST
    recalls = [tried.recall for tried in made.tried]
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.9 <= recalls[-1] == made.recall
    exact = nearest([vectors], queries, 10)
    found = inverted.search_inverted(tmp_path, made, queries, 10, None)
    share = np.mean([np.isin(right, own).mean() for right, own in zip(exact.rows, found.rows, strict=True)])
    assert share == pytest.approx(made.recall, abs=1e-4)
    allowed = np.arange(4000) % 2 == 0
    assert (inverted.search_inverted(tmp_path, made, queries, 3, allowed).rows % 2 == 0).all()


def test_the_recall_of_an_approximate_index_does_not_count_that_a_query_finds_itself(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(4000, 16)))
    own = np.arange(100)
    made = inverted.build_inverted(tmp_path, lambda: [vectors], 4000, vectors[own], own, 0.5, 3, silent)
    exact = without(nearest([vectors], vectors[own], 11), own, 10)
    found = without(inverted.search_inverted(tmp_path, made, vectors[own], 11, None), own, 10)
    share = np.mean([np.isin(right, rows).mean() for right, rows in zip(exact.rows, found.rows, strict=True)])
    assert share == pytest.approx(made.recall, abs=1e-4)


def test_a_damaged_approximate_index_is_an_error(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(300, 8)))
    made = inverted.build_inverted(tmp_path, lambda: [vectors], 300, vectors[:20], np.arange(20), 0.9, 3, silent)
    (tmp_path / inverted.FILE_NAME).write_bytes(b"no index")
    with pytest.raises(StageError, match=r"index\.faiss cannot be read as an index of faiss\. Rebuild it"):
        inverted.search_inverted(tmp_path, made, vectors[:1], 3, None)


@pytest.mark.parametrize(
    ("features", "text"),
    [
        (np.zeros((2, 5), np.float32), "the features are 5 wide, but the maps were fitted to features that are 4 wide"),
        (np.array([[0, 1, 2, 3], [0, np.nan, 2, 3]], np.float32), "1 of 2 are not finite; the first is in row 1"),
    ],
)
def test_features_of_another_width_or_with_nan_are_refused(features: np.ndarray, text: str) -> None:
    with pytest.raises(StageError, match=text):
        Map(np.zeros(4, np.float32), np.eye(4, dtype=np.float32))(features, "the features")


def test_maps_are_fitted_to_clips_to_learn_from_alone(worked_run: Run) -> None:
    directories = {name: worked_run.directory(Node("extract", name, ROUND)) for name in ("video", "audio")}
    learnt = learnt_clips(worked_run.corpus, directories, ["train"], ALL_CLIPS, 1000, 0)
    index = read_whole_index(worked_run.corpus, ["key", "source", "split"])
    train = index.filter(in_splits(index["split"], ["train"]))
    assert 0 < len(train) < len(index)
    assert sorted(learnt.sources) == sorted(train["source"].to_pylist())
    first, second, owners = learnt.pairs("video", "audio")
    own = {name: features_of(worked_run, name) for name in directories}
    pairs = {(own["video"][key].tobytes(), own["audio"][key].tobytes()) for key in train["key"].to_pylist()}
    assert {(one.tobytes(), other.tobytes()) for one, other in zip(first, second, strict=True)} == pairs
    assert len(set(owners)) == len(set(train["source"].to_pylist()))
    # Thresholds of `select`, too.
    loud = learnt_clips(worked_run.corpus, directories, None, SelectSettings(min_level_db=-1.0), 1000, 0)
    assert len(loud.sources) < len(index)


def test_the_stage_says_to_which_clips_it_fitted_the_maps(copy_run: MakeRun, tmp_path: Path) -> None:
    run, out = copy_run(corpus={"learn_splits": ["train"]}), tmp_path / "out"
    out.mkdir()
    MAPS.work(task_for(run, maps_node(ROUND), out))
    document = read_maps_document(out)
    assert document.splits == ["train"]
    assert [pair.pairs for pair in document.shared] == [40]
    assert {own.clips for own in document.modalities.values()} == {40}


def test_of_many_clips_whole_shards_are_taken_in_random_order(worked_run: Run) -> None:
    directories = {"video": worked_run.directory(Node("extract", "video", ROUND))}
    draws = [learnt_clips(worked_run.corpus, directories, None, ALL_CLIPS, 20, seed) for seed in range(6)]
    assert {len(draw.sources) for draw in draws} == {20}
    assert len({tuple(sorted(draw.sources)) for draw in draws}) > 1


def test_without_enough_pairs_search_within_a_modality_works_and_across_says_why(copy_run: MakeRun) -> None:
    run = searchable(copy_run(), PICTURES)
    document = read_maps_document(run.directory(maps_node(ROUND)))
    check_space(run, ROUND, ACROSS)
    few = document.shared[0].model_copy(update={"pairs": 3, "why": "3 clips to learn from have video and audio"})
    path = run.directory(maps_node(ROUND)) / "maps.json"
    (path.parent / "manifest.json").unlink()
    path.write_text(document.model_copy(update={"shared": [few]}).model_dump_json())
    check_space(run, ROUND, PICTURES)
    with pytest.raises(ConfigError, match=r"video cannot be found by audio.*3 clips to learn from.*Search by video"):
        check_space(run, ROUND, ACROSS)


def test_stored_vectors_are_the_mapped_features_in_the_order_of_the_index(copy_run: MakeRun) -> None:
    run = searchable(copy_run(), PICTURES, ACROSS)
    found, maps = features_at(run, "video", ROUND), read_maps(run.directory(maps_node(ROUND)))
    features = np.stack([features_of(run, "video")[key] for key in found.all_keys()])
    for space in (PICTURES, ACROSS):
        directory = run.directory(index_node(space, ROUND))
        stored = np.load(directory / index_stage.FILE_NAME)
        np.testing.assert_allclose(stored, maps[space.of, space.by](features), atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-5)
        assert search_index(directory, stored[5:6], 1).rows.tolist() == [[5]]
    index = read_search_index(run.directory(index_node(PICTURES, ROUND)))
    assert (index.kind, index.clips, index.approximate) == ("flat", 48, None)


def test_above_the_threshold_the_index_is_approximate_and_knows_its_recall(copy_run: MakeRun) -> None:
    run = searchable(copy_run(search={"exact_up_to": 47, "recall": 1.0}), PICTURES, ACROSS)
    for space in (PICTURES, ACROSS):
        directory = run.directory(index_node(space, ROUND))
        index = read_search_index(directory)
        assert index.kind == "ivf"
        assert index.approximate is not None
        assert index.approximate.recall == 1.0
        searched = search_run(run, ROUND, space)
        assert searched.about["recall"] == 1.0
        assert not (directory / index_stage.FILE_NAME).exists()
    exact = searchable(copy_run(), PICTURES)
    key = features_at(run, "video", ROUND).all_keys()[7]
    feature = features_of(run, "video")[key][None]
    ways = [search_run(each, ROUND, PICTURES).search(feature, key, 5, None) for each in (run, exact)]
    assert [row["key"] for row in ways[0]] == [row["key"] for row in ways[1]]


def test_an_index_of_other_features_is_stale_and_made_again(copy_run: MakeRun) -> None:
    run = searchable(copy_run(), PICTURES)
    node = index_node(PICTURES, ROUND)
    assert run_stage(run, node).reused
    assert node_state(run, node, Fingerprints(run))[0] == "fresh"
    other = copy_run(extract={"channels_last": not run.config.extract.channels_last})
    for name in ("maps", "search"):
        target = other.root / "rounds" / "001" / name
        target.parent.mkdir(exist_ok=True)
        (run.root / "rounds" / "001" / name).rename(target)
    for modality in ("video", "audio"):
        for stage in ("init", "extract"):
            number = None if stage == "init" else 0
            run_stage(other, Node(stage, modality, number))
    assert node_state(other, node, Fingerprints(other))[0] == "stale"
    with pytest.raises(StageError, match="needs maps of round 1, which is missing or stale"):
        run_stage(other, node)


def test_searches_are_no_part_of_a_round_and_are_nodes_that_can_be_asked_for(worked_run: Run) -> None:
    assert not {"maps", "search"} & {node.stage for node in all_nodes(worked_run.config)}
    asked = asked_nodes(worked_run.config, ROUND)
    assert [str(node) for node in asked if node.stage == "search"] == [
        f"search.{name} of round 1" for name in ("video", "video-by-audio", "audio", "audio-by-video")
    ]
    for node in asked:
        check_node(worked_run, node)
    with pytest.raises(ConfigError, match=r"no node search\.joint of round 1\. There is: search\.video of round 0"):
        check_node(worked_run, Node("search", "joint", 1))
    assert [space_named(space.name) for space in spaces_of(["video", "audio"])] == spaces_of(["video", "audio"])


def test_a_clip_that_is_a_query_is_described_and_not_found(copy_run: MakeRun) -> None:
    run = searchable(copy_run(), PICTURES)
    searched = search_run(run, ROUND, PICTURES)
    key = searched.features.all_keys()[20]
    shard = find_clip(run.corpus, key)
    assert shard is not None
    feature = feature_of(searched.features.directory, shard, key, "video")
    results = searched.search(feature, key, 3, None)
    assert key not in [row["key"] for row in results]
    assert [row["rank"] for row in results] == [1, 2, 3]
    assert [row["similarity"] for row in results] == sorted((row["similarity"] for row in results), reverse=True)
    row = describe(run.corpus, run.videos, [(shard, key)])[key]
    assert Path(row["path"]).is_file()
    assert set(results[0]) == {"rank", "similarity", "key", *row}
    assert {"label", "label_speaker"} <= set(row["labels"])
    assert {each["split"] for each in searched.search(feature, key, 3, "test")} == {"test"}
    with pytest.raises(ConfigError, match=r"no clip of .* is of the split 'tset'\. There are: test, train\."):
        searched.search(feature, key, 3, "tset")


def test_an_unknown_query_names_similar_keys_or_the_clips_of_the_source(worked_run: Run) -> None:
    table = read_whole_index(worked_run.corpus, ["key", "source"]).to_pylist()
    key, source = table[3]["key"], table[3]["source"]
    wrong = key[:-1] + ("1" if key[-1] != "1" else "2")
    assert find_clip(worked_run.corpus, wrong) is None
    text = str(unknown_query(worked_run.corpus, wrong))
    assert text.startswith(f"{wrong} is neither a media file nor the key of one of the 48 clips of")
    assert f"Similar keys: {key}" in text
    unlike = str(unknown_query(worked_run.corpus, "?"))
    assert list(worked_run.corpus.glob(unlike.rsplit(f"{worked_run.corpus}/", 1)[1].removesuffix(".")))
    assert f"It is a source of the corpus; its clips are: {key}." in str(unknown_query(worked_run.corpus, source))


def test_a_clip_without_a_feature_says_why(copy_run: MakeRun) -> None:
    run = copy_run()
    found = features_at(run, "video", ROUND)
    shard = next(iter(found.sizes))
    with pytest.raises(ConfigError, match=r"clip nobody has no feature of video \(it has no such member\)"):
        feature_of(found.directory, shard, "nobody", "video")


def test_recall_counts_labels_without_the_own_clip_and_the_own_clip_by_itself() -> None:
    rng = np.random.default_rng(0)
    labels = [str(number % 4) for number in range(40)]
    centres = rng.normal(size=(4, 8))
    vectors = unit(centres[np.arange(40) % 4] + 0.01 * rng.normal(size=(40, 8)))
    own, among = np.arange(40), np.ones(40, bool)
    found = nearest([vectors], vectors, 11)
    measured = measure(found, own, among, {"label": labels}, (1, 10), across=True)
    assert measured["label"]["recall"] == {"1": 1.0, "10": 1.0}
    assert measured["label"]["chance"]["1"] == pytest.approx(9 / 39)
    assert measured["own clip"]["recall"]["1"] == 1.0
    assert measured["own clip"]["chance"] == {"1": 1 / 40, "10": 10 / 40}
    random = nearest([vectors], unit(rng.normal(size=(40, 8))), 11)
    other = measure(random, rng.permutation(own), among, {"label": labels, "none": [None] * 40}, (1, 10), across=False)
    assert set(other) == {"queries", "among", "label"}
    assert other["label"]["recall"]["1"] < 0.6


def test_chance_is_that_of_the_clips_that_could_be_found() -> None:
    # Queries are the first 10 clips, found are the others, of which 3 in 30 have the queries' label.
    rng = np.random.default_rng(0)
    labels = ["a"] * 10 + ["a"] * 3 + ["b"] * 27
    among = np.arange(40) >= 10
    drawn = np.array([rng.permutation(np.flatnonzero(among))[:6] for _ in range(2000)])
    found = Nearest(drawn, np.zeros(drawn.shape, np.float32))
    measured = measure(found, np.arange(2000) % 10, among, {"label": labels}, (1, 5), across=True)
    assert measured["label"]["chance"]["1"] == pytest.approx(3 / 30)
    assert measured["label"]["recall"]["1"] == pytest.approx(measured["label"]["chance"]["1"], abs=0.03)
    assert measured["label"]["recall"]["5"] == pytest.approx(measured["label"]["chance"]["5"], abs=0.04)
    assert "own clip" not in measured  # It could not be found.


def test_a_page_never_replaces_files_that_no_page_has_written(tmp_path: Path) -> None:
    page = tmp_path / "found.html"
    assert media_folder(page) == tmp_path / "found-media"
    (tmp_path / "found-media" / "query").mkdir(parents=True)
    assert media_folder(page) == tmp_path / "found-media"
    (tmp_path / "found-media" / "query" / "mine.ogg").write_bytes(b"music")
    with pytest.raises(ConfigError, match=r"found-media holds 1 files .* query/mine\.ogg first"):
        media_folder(page)
    (tmp_path / "found-media" / "files.json").write_text('["query/mine.ogg", "files.json"]')
    assert media_folder(page) == tmp_path / "found-media"
    (tmp_path / "link-media").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        media_folder(tmp_path / "link.html")


def test_what_the_stages_write_is_plain_json_and_arrays(copy_run: MakeRun) -> None:
    run = searchable(copy_run(), ACROSS)
    document: dict[str, Any] = json.loads((run.directory(maps_node(ROUND)) / "maps.json").read_text())
    manifests = {
        name: json.loads((run.directory(Node("extract", name, ROUND)) / "manifest.json").read_text())
        for name in ("video", "audio")
    }
    for name, own in document["modalities"].items():
        assert own["features"] == manifests[name]["fingerprint"]
        assert own["encoder"] == manifests[name]["inputs"][f"train.{name} of round 0"]
    assert document["shared"][0]["chosen"]["ridge"] in (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
    index = json.loads((run.directory(index_node(ACROSS, ROUND)) / "index.json").read_text())
    assert index["features"] == manifests["video"]["fingerprint"]
    assert sum(row["rows"] for row in index["shards"]) == index["clips"] == 48
