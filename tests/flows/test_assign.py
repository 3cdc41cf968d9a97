"""`xdc assign`: the nearest frozen clusters of a run, for new clips."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.store.manifest import read_manifest
from tests.flows.test_cli import xdc
from tests.flows.test_embed import manifest_of
from tests.runs import MakeRun
from tests.sharing import made_once
from xdc_core.data.features import read_features, write_features
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run


def assigned(*arguments: object) -> list[dict[str, Any]]:
    """What `xdc assign --json` answers."""
    code, output = xdc("assign", *arguments, "--json")
    assert code == 0, output
    answer: list[dict[str, Any]] = json.loads(output[output.index("[\n") :])
    return answer


def files_of(directory: Path | str) -> dict[str, str]:
    """The sha256 of the Parquet files of a committed directory."""
    manifest = read_manifest(Path(directory))
    assert manifest is not None
    return {name: entry.sha256 for name, entry in manifest.files.items() if name.endswith(".parquet")}


@pytest.fixture(scope="session")
def cdc_run(worked_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of cdc with two clusterings in round 0, before its first training. For reading only."""

    def make(directory: Path) -> None:
        shutil.copytree(worked_run.root, directory / "run")
        file = directory / "run" / "xdc.yaml"
        text = file.read_text().replace("method: xdc", "method: cdc").replace("heads: 1 ", "heads: 2 ")
        file.write_text(text)
        run = open_run(directory / "run")
        assert (run.config.method, run.config.cluster.heads) == ("cdc", 2)
        for node in (Node("cluster", "joint", 0), Node("label", "joint", 0)):
            run_stage(run, node)

    return open_run(made_once(tmp_path_factory, "cdc", make) / "run")


def test_videos_that_a_run_has_learnt_from_get_their_labels_again(
    worked_run: Run, digits: Path, copy_run: MakeRun, tmp_path: Path
) -> None:
    run = copy_run()
    answer = assigned(run.root, digits, "--out", tmp_path / "out")
    assert [each["source"] for each in answer] == ["video", "audio"]
    for each in answer:
        labels = run.directory(Node("label", each["source"], 1))
        assert files_of(each["path"]) == files_of(labels)
        assert (each["round"], each["clips"], sum(each["sizes"])) == (1, 48, 48)
    again = assigned(run.root, tmp_path / "out" / "clips", "--out", tmp_path / "out")
    assert all(each["reused"] for each in again)


def test_features_of_a_run_get_the_labels_of_the_chosen_round(worked_run: Run, tmp_path: Path) -> None:
    for number in (0, 1):
        answer = assigned(worked_run.root, worked_run.root, "--round", number, "--out", tmp_path / str(number))
        for each in answer:
            assert files_of(each["path"]) == files_of(worked_run.directory(Node("label", each["source"], number)))
    one = assigned(worked_run.root, worked_run.directory(Node("extract", "audio", 1)), "--out", tmp_path / "one")
    assert [each["source"] for each in one] == ["audio"]


def test_joint_clusters_need_both_modalities_and_have_a_column_per_clustering(
    cdc_run: Run, digits: Path, tmp_path: Path
) -> None:
    (each,) = assigned(cdc_run.root, digits, "--round", 0, "--out", tmp_path / "out")
    assert files_of(each["path"]) == files_of(cdc_run.directory(Node("label", "joint", 0)))
    table = pq.read_table(sorted(Path(each["path"]).rglob("*.parquet"))[0])
    assert table.column_names == ["key", "cluster", "distance", "cluster_1", "distance_1"]
    code, output = xdc("assign", cdc_run.root, digits, "--round", 0, "--modality", "video", "--out", tmp_path / "no")
    assert code == 2
    assert "there are features of video, and the joint clusters of" in output
    assert "are of video and audio features" in output


def test_clusters_that_a_run_lacks_are_made(copy_run: MakeRun, tmp_path: Path) -> None:
    run = copy_run()
    for stage in ("cluster", "label", "report"):
        for directory in run.round_directory(1).glob(f"{stage}*"):
            shutil.rmtree(directory)
    answer = assigned(run.root, run.root, "--out", tmp_path / "out", "--modality", "video")
    assert [(each["source"], each["clips"]) for each in answer] == [("video", 48)]
    assert run.directory(Node("cluster", "video", 1)).exists()


def test_features_by_another_encoder_are_refused(worked_run: Run, digits: Path, tmp_path: Path) -> None:
    some = manifest_of(digits, tmp_path / "some.csv", slice(6))
    code, output = xdc("embed", worked_run.root, some, "--round", 0, "--out", tmp_path / "first", "--modality", "video")
    assert code == 0, output
    code, output = xdc("assign", worked_run.root, tmp_path / "first", "--round", 1, "--out", tmp_path / "out")
    assert code == 2
    assert "has no features by the video encoders of which the clusters of round 1 of" in output
    assert f"xdc embed {worked_run.root} VIDEOS --round 1 --out DIR" in output
    assert assigned(worked_run.root, tmp_path / "first", "--round", 0, "--out", tmp_path / "out")[0]["clips"] == 6


def test_features_of_somebody_else_are_assigned_or_refused_in_words(worked_run: Run, tmp_path: Path) -> None:
    directory = worked_run.directory(Node("extract", "video", 1))
    stored = sorted(directory.rglob("*.parquet"))
    given = tmp_path / "given"
    given.mkdir()
    for number, file in enumerate(stored):
        keys, features = read_features(file)
        lists = pa.array(features.astype(np.float64).tolist(), pa.list_(pa.float64()))
        pq.write_table(
            pa.table({"feature": lists, "key": keys.tolist(), "more": keys.tolist()}), given / f"p.{number}.parquet"
        )
    code, output = xdc("assign", worked_run.root, given, "--out", tmp_path / "out")
    assert code == 2
    assert "--modality video or audio" in output
    (each,) = assigned(worked_run.root, given, "--modality", "video", "--out", tmp_path / "out")
    found, labels = (
        pa.concat_tables([pq.read_table(file) for file in sorted(Path(place).rglob("*.parquet"))])
        for place in (each["path"], worked_run.directory(Node("label", "video", 1)))
    )
    assert found == labels

    def refused(keys: list[str], features: np.ndarray, words: str) -> None:
        write_features(tmp_path / "bad" / "0.parquet", keys, features)
        code, output = xdc(
            "assign", worked_run.root, tmp_path / "bad", "--modality", "video", "--out", tmp_path / "bad-out"
        )
        assert code == 2, output
        assert words in output

    refused(["a"], np.zeros((1, 32), np.float32), "the features are 32 wide, and the clusters are of video features")
    nothing = np.zeros((2, 64), np.float32)
    nothing[1, 3] = np.nan
    refused(["a", "b"], nothing, "have values that are not finite numbers, the first of clip b")
    refused(["a", "a"], np.zeros((2, 64), np.float32), "some keys occur twice")


def test_a_run_without_clusters_says_so(make_run: MakeRun, worked_run: Run, tmp_path: Path) -> None:
    code, output = xdc("assign", make_run(method="supervised").root, worked_run.root, "--out", tmp_path / "out")
    assert code == 2
    assert "the method supervised makes no clusters" in output
