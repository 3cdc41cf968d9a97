"""Pseudo-labels: every clip's nearest centroid, one row a clip, in order, with scores."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import normalized_mutual_info_score

from shards.corpus.index import label_columns, read_index, read_whole_index, shard_names
from shards.errors import StageError
from shards.progress import silent
from shards.store.executor import IN_PROCESS
from shards.store.files import part_name, part_path
from shards.store.manifest import read_manifest
from shards.store.receipt import RECEIPTS, UNITS
from tests.commits import commit_as_it_is
from tests.runs import MakeRun
from tests.xdc_core.tasks import BACKWARDS, features_of, task_for
from xdc_core.clustering.model import read_model
from xdc_core.clustering.preprocess import load_preprocess
from xdc_core.clustering.registry import KMEANS
from xdc_core.data.features import source_part
from xdc_core.data.labels import read_labels
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.stages import label as labelling
from xdc_core.stages.label import label

NODES = [(source, number) for source in ("video", "audio") for number in (0, 1)]


def scores_of(run: Run, source: str, number: int) -> dict[str, object]:
    path = run.directory(Node("label", source, number)) / "scores.json"
    found: dict[str, object] = json.loads(path.read_text())
    return found


def all_labels(run: Run, source: str, number: int) -> tuple[list[str], np.ndarray]:
    parts = [read_labels(run.directory(Node("label", source, number)), shard) for shard in shard_names(run.corpus)]
    return [key for keys, _ in parts for key in keys], np.concatenate([clusters for _, clusters in parts])


@pytest.mark.parametrize(("source", "number"), NODES)
def test_labels_are_the_nearest_centroids_and_distances_are_euclidean(
    worked_run: Run, source: str, number: int
) -> None:
    clusters = worked_run.directory(Node("cluster", source, number))
    centroids = read_model(clusters, KMEANS)["centroids"].astype(np.float64)
    for shard in shard_names(worked_run.corpus):
        _, parts = source_part(features_of(worked_run, number, source), shard)
        points = load_preprocess(clusters / "preprocess.npz")(parts).astype(np.float64)
        distances = np.linalg.norm(points[:, None] - centroids[None], axis=2)
        table = pq.read_table(part_path(worked_run.directory(Node("label", source, number)), shard))
        assert table["cluster"].to_pylist() == distances.argmin(axis=1).tolist()
        np.testing.assert_allclose(table["distance"].to_numpy(), distances.min(axis=1), atol=1e-5)


@pytest.mark.parametrize(("source", "number"), NODES)
def test_rows_are_those_of_the_index_in_its_order(worked_run: Run, source: str, number: int) -> None:
    for shard in shard_names(worked_run.corpus):
        keys, clusters = read_labels(worked_run.directory(Node("label", source, number)), shard)
        assert keys.tolist() == read_index(worked_run.corpus, shard, ["key"])["key"].to_pylist()
        assert clusters.dtype == np.int32


def test_columns_are_what_the_documentation_says(worked_run: Run) -> None:
    schema = pq.read_schema(part_path(worked_run.directory(Node("label", "video", 0)), "000000"))
    assert {field.name: str(field.type) for field in schema} == {
        "key": "string",
        "cluster": "int32",
        "distance": "float",
    }


@pytest.mark.parametrize(("source", "number"), NODES)
def test_scores_count_sizes_and_empty_clusters(worked_run: Run, source: str, number: int) -> None:
    _, clusters = all_labels(worked_run, source, number)
    sizes = np.bincount(clusters, minlength=4)
    found = scores_of(worked_run, source, number)
    assert found["sizes"] == sizes.tolist()
    assert (found["k"], found["clips"]) == (4, 48)
    assert found["empty"] == int((sizes == 0).sum())
    assert found["largest"] == sizes.max()
    assert found["largest_share"] == pytest.approx(sizes.max() / 48, abs=1e-6)


def test_clusters_far_from_every_clip_are_counted_as_empty(copy_run: MakeRun) -> None:
    run = copy_run()
    path = run.directory(Node("cluster", "video", 0)) / "centroids.npy"
    centroids = np.load(path)
    centroids[[1, 3]] += 1000
    np.save(path, centroids)
    commit_as_it_is(path.parent)
    run_stage(run, Node("label", "video", 0), force=True)
    found = scores_of(run, "video", 0)
    assert found["empty"] == 2
    sizes = found["sizes"]
    assert isinstance(sizes, list)
    assert sizes[1] == sizes[3] == 0
    assert sum(sizes) == 48


@pytest.mark.parametrize(("source", "number"), NODES)
def test_agreement_with_every_label_column_is_that_of_scikit_learn(worked_run: Run, source: str, number: int) -> None:
    _, clusters = all_labels(worked_run, source, number)
    names = label_columns(worked_run.corpus)
    assert names[0] == "label"
    assert len(names) == 8
    index = read_whole_index(worked_run.corpus, names)
    found = scores_of(worked_run, source, number)["labels"]
    assert isinstance(found, dict)
    assert list(found) == names
    for name in names:
        truth = index[name].to_pylist()
        assert found[name]["nmi"] == pytest.approx(normalized_mutual_info_score(truth, clusters), abs=1e-6)


@pytest.mark.parametrize("source", ["video", "audio"])
def test_agreement_with_the_round_before_is_that_of_scikit_learn(worked_run: Run, source: str) -> None:
    assert scores_of(worked_run, source, 0)["nmi_previous"] is None
    before, after = (all_labels(worked_run, source, number)[1] for number in (0, 1))
    expected = normalized_mutual_info_score(before, after)
    assert scores_of(worked_run, source, 1)["nmi_previous"] == pytest.approx(expected, abs=1e-6)


def test_shards_that_are_labelled_already_are_kept_and_scores_are_the_same(copy_run: MakeRun) -> None:
    run, node = copy_run(), Node("label", "audio", 1)
    out = run.root / "begun"
    out.mkdir()
    label(task_for(run, node, out))
    for shard in ("000000", "000002"):
        (out / UNITS / RECEIPTS / f"{shard}.json").unlink()
    (out / "scores.json").unlink()
    before = (out / "data" / "000001.parquet").stat().st_mtime_ns
    seen: list[int] = []
    label(task_for(run, node, out, lambda done, total, note="": seen.append(done)))
    assert seen == [1, 2, 3]
    assert (out / "data" / "000001.parquet").stat().st_mtime_ns == before
    for name in (*map(part_name, ("000000", "000001", "000002")), "scores.json"):
        assert (out / name).read_bytes() == (run.directory(node) / name).read_bytes()


@pytest.mark.parametrize("method", ["xdc", "supervised"])
def test_workers_that_get_their_units_from_a_file_write_the_same_labels_and_scores(
    copy_run: MakeRun, worked_run: Run, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(labelling, "PER_UNIT", 2)
    truth = {"method": "supervised", "truth": "label_speaker"} if method == "supervised" else {}
    node = Node("label", "truth" if truth else "video", 1)
    results = []
    for executor in (IN_PROCESS, BACKWARDS):
        run = copy_run(**truth)
        record = run_stage(run, node, force=True, executor=executor)
        files = read_manifest(run.directory(node))
        assert files is not None
        results.append((record.rows, record.rejects, record.summary, files.files))
    assert results[0] == results[1]


@pytest.mark.parametrize("damage", ["missing", "cut", "pickled"])
def test_centroids_that_cannot_be_read_tell_how_to_make_them_anew(copy_run: MakeRun, damage: str) -> None:
    run = copy_run()
    path = run.directory(Node("cluster", "video", 0)) / "centroids.npy"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    (run.root / "out").mkdir()
    with pytest.raises(StageError, match=r"centroids\.npy cannot be read .*xdc stage cluster"):
        label(task_for(run, Node("label", "video", 0), run.root / "out", silent))
