"""`xdc assign`: the nearest frozen clusters of a run, for new clips."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.errors import StageError
from shards.store.manifest import read_manifest
from tests.flows.test_cli import xdc
from tests.flows.test_embed import manifest_of
from tests.runs import MakeRun
from tests.sharing import made_once
from xdc_core.config.schema import RunsOn
from xdc_core.data.features import read_features, write_features
from xdc_core.graph.run_stage import run_stage
from xdc_core.new_clips.assignment import assign
from xdc_core.new_clips.clusters import clusters_of_run, sources_of_run
from xdc_core.new_clips.parts import parts_of_run
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
    return {Path(name).name: entry.sha256 for name, entry in manifest.files.items() if name.endswith(".parquet")}


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


def test_new_clips_get_the_nearest_centroid_of_a_run_with_balanced_labels_too(
    copy_run: MakeRun, tmp_path: Path
) -> None:
    run = copy_run(label={"assign": "balanced"})
    code, output = xdc("assign", run.root, run.root, "--round", 0, "--out", tmp_path / "out")
    assert code == 0, output
    assert "the run's own labels are balanced; new clips get the nearest centroid" in output
    (each, _) = assigned(run.root, run.root, "--round", 0, "--out", tmp_path / "out")
    assert (each["assign"], each["labels_of_the_run"]) == ("nearest", "balanced")
    nearest = Node("label", "video", 0)  # Of the run before its setting was changed.
    assert files_of(each["path"]) == files_of(run.directory(nearest))


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
    assert "has no features of video by the encoders at the start of round 1 of" in output
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


def test_files_and_rows_of_somebody_else_that_cannot_be_used_are_named(worked_run: Run, tmp_path: Path) -> None:
    given, out = tmp_path / "bad", tmp_path / "bad-out"

    def answer(keys: list[str], features: np.ndarray) -> tuple[int, str]:
        write_features(given / "below" / "0.parquet", keys, features)
        return xdc("assign", worked_run.root, given, "--modality", "video", "--out", out)

    code, output = answer(["a"], np.zeros((1, 32), np.float32))
    assert code == 2
    assert "the features are 32 wide, and the clusters are of video features that are 64 wide" in output
    features = np.zeros((4, 64), np.float32)
    features[1, 3] = np.nan
    code, output = answer(["a", "b", "c", "c"], features)
    assert code == 0, output
    assert "video, round 1: 2 clips in" in output
    assert "2 files, rows or clips were rejected" in output
    rejects = pq.read_table(out / "given" / "video" / "corpus" / "rejects.parquet").to_pylist()
    assert [(row["key"], row["kind"]) for row in rejects] == [("b", "damaged"), ("c", "duplicate")]
    (given / "1.parquet").write_bytes(b"PAR1 cut off")
    code, output = answer(["a"], features[:1])
    assert code == 2
    assert f"{given / '1.parquet'} cannot be read as Parquet" in output
    pq.write_table(pa.table({"id": ["a"], "feature": [[0.0] * 64]}), given / "1.parquet")
    code, output = answer(["a"], features[:1])
    assert code == 2
    assert f"{given / '1.parquet'} has no column key" in output


def test_joint_clusters_are_of_the_keys_that_all_modalities_have(cdc_run: Run, tmp_path: Path) -> None:
    """Whatever the files and the order in which they lie."""
    for name in ("video", "audio"):
        parts = [read_features(file) for file in sorted(cdc_run.directory(Node("extract", name, 0)).rglob("*.parquet"))]
        keys, features = (np.concatenate(each) for each in zip(*parts, strict=True))
        order = np.arange(len(keys)) if name == "video" else np.arange(len(keys) - 3)[::-1]
        write_features(tmp_path / "given" / name / f"{name}.parquet", keys[order].tolist(), features[order])
    arguments = ("assign", cdc_run.root, tmp_path / "given", "--round", 0, "--out", tmp_path / "out")
    code, output = xdc(*arguments)
    assert code == 0, output
    assert "joint, round 0: 45 clips in" in output
    assert "3 files, rows or clips were rejected" in output
    labels = cdc_run.directory(Node("label", "joint", 0))
    found, wanted = (
        pa.concat_tables([pq.read_table(file) for file in sorted(place.rglob("*.parquet"))])
        for place in (tmp_path / "out" / "joint" / "data", labels)
    )
    assert found == wanted.slice(0, 45)
    write_features(tmp_path / "given" / "audio" / "audio.parquet", ["other"], features[:1])
    code, output = xdc(*arguments)
    assert code == 1
    assert "no clip is left. No key has a good feature of video and of audio." in output


def test_clips_without_all_features_of_joint_clusters_are_counted(cdc_run: Run, tmp_path: Path) -> None:
    sources = sources_of_run(cdc_run)
    (clusters,) = clusters_of_run(cdc_run, 0, sources)
    parts = parts_of_run(cdc_run, 0, sources["joint"])
    changed = {}
    for shard, (video, audio) in parts.files.items():
        keys, features = read_features(audio)
        keep = np.ones(len(keys), bool)
        keep[:2] = shard != "000000"
        write_features(tmp_path / "audio" / audio.name, keys[keep].tolist(), features[keep])
        changed[shard] = (video, tmp_path / "audio" / audio.name)
    record = assign(tmp_path / "out", clusters, replace(parts, files=changed), RunsOn(device="cpu"))
    assert (record.rows, record.rejects) == (46, 2)
    for number, (_, audio) in enumerate(changed.values()):
        write_features(audio, [f"other-{number}"], np.zeros((1, 64), np.float32))
    with pytest.raises(StageError, match="none of the 48 clips has features of video and audio"):
        assign(tmp_path / "none", clusters, replace(parts, files=changed), RunsOn(device="cpu"))


def test_the_default_place_is_of_the_modality_and_the_encoders_too(copy_run: MakeRun) -> None:
    run = copy_run()
    places = set()
    for modality in ((), ("--modality", "video"), ("--modality", "audio")):
        places.add(Path(assigned(run.root, run.root, *modality)[0]["path"]).parent)
    assert len(places) == 3
    assert {place.parent for place in places} == {run.root / "assigned"}


def test_a_run_without_clusters_says_so(make_run: MakeRun, worked_run: Run, tmp_path: Path) -> None:
    code, output = xdc("assign", make_run(method="supervised").root, worked_run.root, "--out", tmp_path / "out")
    assert code == 2
    assert "the method supervised makes no clusters" in output


def test_the_clusters_of_an_export_are_those_of_its_run(
    cdc_run: Run, worked_run: Run, copy_run: MakeRun, tmp_path: Path
) -> None:
    code, output = xdc("export", worked_run.root, "--to", tmp_path / "exported")
    assert code == 0, output
    for each in assigned(tmp_path / "exported", worked_run.root, "--out", tmp_path / "out"):
        assert files_of(each["path"]) == files_of(worked_run.directory(Node("label", each["source"], 1)))
    code, output = xdc("export", cdc_run.root, "--round", 0, "--to", tmp_path / "joint")
    assert code == 0, output
    (each,) = assigned(tmp_path / "joint", cdc_run.root, "--out", tmp_path / "joint-out")
    assert files_of(each["path"]) == files_of(cdc_run.directory(Node("label", "joint", 0)))
    code, output = xdc("assign", tmp_path / "joint" / "video", cdc_run.root, "--out", tmp_path / "no")
    assert code == 2
    assert "has no clusters, so nothing can be assigned to them. video: the method cdc does not cluster" in output
    code, output = xdc("assign", tmp_path / "exported", cdc_run.root)
    assert code == 2
    assert "Give --out" in output
