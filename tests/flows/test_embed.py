"""`xdc embed`: features of new videos by a run's encoders."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from flows.cli.using.media_query import embed_query
from shards.corpus.index import read_index, read_whole_index, shard_names
from shards.store.files import part_path
from shards.store.manifest import read_manifest
from tests.flows.test_cli import xdc
from tests.runs import MakeRun
from tests.shards.media_maker import tone, write_video
from xdc_core.data.features import read_features
from xdc_core.new_clips.encoders import embedding_values, encoders_of_run
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run


def features_of(run: Run, modality: str, number: int) -> dict[str, np.ndarray]:
    """The features of a run's clips in a round, by the name of the video."""
    directory = run.directory(Node("extract", modality, number))
    found = {}
    for shard in shard_names(run.corpus):
        keys, features = read_features(part_path(directory, shard))
        index = read_index(run.corpus, shard, ["key", "source"]).to_pylist()
        source_of = {row["key"]: Path(row["source"]).name for row in index}
        found |= {source_of[key]: feature for key, feature in zip(keys, features, strict=True)}
    return found


def manifest_of(digits: Path, path: Path, rows: slice) -> Path:
    """A manifest of some of the digits, in the opposite order."""
    with digits.open(newline="") as file:
        listed = list(csv.DictReader(file))[rows]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, listed[0].keys())
        writer.writeheader()
        for row in reversed(listed):
            writer.writerow(row | {"path": os.path.relpath(digits.parent / row["path"], path.parent)})
    return path


@pytest.fixture(scope="session")
def embedded(worked_run: Run, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Features of all digits by the encoders of the worked run's round 1. For reading only."""
    root = tmp_path_factory.mktemp("embedded") / "all"
    code, output = xdc("embed", worked_run.root, digits, "--out", root)
    assert code == 0, output
    assert "48 clips, by the encoders at the start of round 1" in output
    assert "video: 48 features, 64 wide" in output
    return open_run(root)


def test_features_of_the_same_videos_are_those_of_the_runs_own_extraction_bit_for_bit(
    embedded: Run, worked_run: Run
) -> None:
    for modality in ("video", "audio"):
        there, here = (run.directory(Node("extract", modality, n)) for run, n in ((worked_run, 1), (embedded, 0)))
        manifests = [read_manifest(directory) for directory in (there, here)]
        files = [{name: entry.sha256 for name, entry in found.files.items()} for found in manifests if found]
        assert len(files) == 2
        assert files[0] == files[1]
        assert any(name.endswith(".parquet") for name in files[0])


def test_features_of_some_videos_in_another_order_are_the_same_but_for_rounding(
    embedded: Run, worked_run: Run, digits: Path, tmp_path: Path
) -> None:
    some = manifest_of(digits, tmp_path / "some.csv", slice(3, 40, 3))
    code, output = xdc("embed", worked_run.root, some, "--out", tmp_path / "out", "--json")
    assert code == 0, output
    answer = json.loads(output[output.index("{\n") :])
    assert answer["features"]["video"]["rows"] == answer["clips"] == 13
    run = open_run(tmp_path / "out")
    for modality in ("video", "audio"):
        all_features, features = features_of(embedded, modality, 0), features_of(run, modality, 0)
        assert len(features) == 13
        for name, feature in features.items():
            away = np.linalg.norm(feature - all_features[name]) / np.linalg.norm(feature)
            assert away <= 1e-5


def test_a_second_call_reuses_and_one_with_other_arguments_is_an_error(
    embedded: Run, worked_run: Run, digits: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(embedded.root, tmp_path / "moved" / "all")
    text = (root / "xdc.yaml").read_text()
    (root / "xdc.yaml").write_text(text.replace(f"videos: {embedded.config.corpus.videos}", f"videos: {digits}"))
    code, output = xdc("embed", worked_run.root, digits, "--out", root, "--json")
    assert code == 0, output
    answer = json.loads(output[output.index("{\n") :])
    assert all(features["reused"] for features in answer["features"].values())
    code, output = xdc("embed", worked_run.root, digits, "--out", root, "--round", 0)
    assert code == 2
    assert "has features by another video encoder" in output
    assert "by the encoders at the start of round 0" in output
    some = manifest_of(digits, tmp_path / "some.csv", slice(4))
    code, output = xdc("embed", worked_run.root, some, "--out", root)
    assert code == 2
    assert f"has features of {digits}, not of {some}" in output
    code, output = xdc("embed", worked_run.root, digits, "--out", root, "--modality", "video")
    assert code == 2
    assert "modalities is ['video', 'audio']" in output
    code, output = xdc("embed", worked_run.root, digits, "--out", worked_run.root)
    assert code == 2
    assert "is the configuration of a run that learns" in output


def test_media_without_sound_need_one_modality(worked_run: Run, tmp_path: Path) -> None:
    (tmp_path / "mute").mkdir()
    for number in range(3):
        pictures = [np.full((48, 64, 3), 20 * number + frame, np.uint8) for frame in range(60)]
        write_video(tmp_path / "mute" / f"{number}.mp4", pictures, None, fps=30)
    code, output = xdc("embed", worked_run.root, tmp_path / "mute", "--out", tmp_path / "both")
    assert code == 1
    assert "no sound: the file has no audio stream" in output
    assert "give --modality video, and another --out" in output
    arguments = ("embed", worked_run.root, tmp_path / "mute", "--out", tmp_path / "pictures", "--modality", "video")
    code, output = xdc(*arguments)
    assert code == 0, output
    assert "video: 3 features, 64 wide" in output
    code, output = xdc("embed", worked_run.root, tmp_path / "mute", "--out", tmp_path / "no", "--modality", "flicker")
    assert code == 2
    assert "has encoders of video, audio" in output


def test_rejected_files_are_named_with_their_reasons(worked_run: Run, tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    pictures = [np.full((48, 64, 3), frame, np.uint8) for frame in range(30)]
    for name in ("a", "b"):
        write_video(tmp_path / "mixed" / f"{name}.mp4", pictures, tone(440, 1.0), fps=30)
    (tmp_path / "mixed" / "broken.mp4").write_bytes(b"no video")
    code, output = xdc("embed", worked_run.root, tmp_path / "mixed", "--out", tmp_path / "out")
    assert code == 0, output
    assert "1 files or clips were rejected" in output
    assert "1 x FFmpeg cannot open it" in output


def test_a_data_set_in_a_layout_is_embedded_with_its_labels(worked_run: Run, digits: Path, tmp_path: Path) -> None:
    videos = sorted((digits.parent / "videos").rglob("*.mp4"))
    for number, video in enumerate(videos[:4]):
        folder = tmp_path / "classes" / ("even" if number % 2 == 0 else "odd")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, folder / video.name)
    shutil.copy(videos[4], tmp_path / "classes")
    root = tmp_path / "out"
    code, output = xdc("embed", worked_run.root, tmp_path / "classes", "--layout", "folder", "--out", root)
    assert code == 0, output
    assert "it is not in a class folder" in output
    index = read_whole_index(open_run(root).corpus, ["source", "label"]).to_pylist()
    assert sorted((Path(row["source"]).name, row["label"]) for row in index) == [
        (video.name, "odd" if number % 2 else "even") for number, video in enumerate(videos[:4])
    ]
    code, output = xdc("embed", worked_run.root, digits, "--layout", "folders", "--out", tmp_path / "other")
    assert code == 2
    assert "folders" in output


def test_clips_are_cut_as_the_runs_corpus_was_whatever_its_xdc_yaml_says(
    worked_run: Run, copy_run: MakeRun, digits: Path, tmp_path: Path
) -> None:
    """Without `corpus.videos` a run shares a corpus, and its own settings of clips have no effect."""
    run = copy_run(corpus={"videos": None, "short_side": 48, "clip_seconds": 0.5, "min_seconds": 0.5})
    wanted = worked_run.config.corpus
    assert wanted.short_side != 48
    encoders = encoders_of_run(run, 1, run.config.modalities)
    assert encoders.values == encoders_of_run(worked_run, 1, run.config.modalities).values | {
        "corpus": wanted.model_dump(mode="json") | {"videos": None, "learn_splits": None, "layout": None}
    }
    file = sorted(digits.parent.rglob("*.mp4"))[0]
    _, corpus, about = embed_query(run, 1, "video", file, None, tmp_path)
    (clip,) = read_whole_index(corpus).to_pylist()
    assert min(clip["width"], clip["height"]) == wanted.short_side
    assert about["duration_s"] > 0.5


def test_encoders_of_supervised_training_need_no_number_of_clusters(make_run: MakeRun) -> None:
    config = make_run(method="supervised", cluster={"k": {}}).config
    assert set(embedding_values(config, ("video",), 0)["cluster"]["k"]) == {"video"}


def test_a_run_without_an_encoder_says_how_to_make_one(make_run: MakeRun, digits: Path, tmp_path: Path) -> None:
    run = make_run()
    code, output = xdc("embed", run.root, digits, "--out", tmp_path / "out")
    assert code == 2
    assert "has no encoder yet that is up to date" in output
    assert not (tmp_path / "out").exists()


def test_an_export_gives_the_features_of_its_run_and_needs_no_run(
    worked_run: Run, embedded: Run, digits: Path, tmp_path: Path
) -> None:
    code, output = xdc("export", worked_run.root, "--to", tmp_path / "exported")
    assert code == 0, output
    code, output = xdc("embed", tmp_path / "exported", digits, "--out", tmp_path / "out")
    assert code == 0, output
    run = open_run(tmp_path / "out")
    for modality in ("video", "audio"):
        wanted, found = features_of(embedded, modality, 0), features_of(run, modality, 0)
        assert wanted.keys() == found.keys()
        for name, feature in found.items():
            assert np.linalg.norm(feature - wanted[name]) <= 1e-5 * np.linalg.norm(feature)
    some = manifest_of(digits, tmp_path / "some.csv", slice(4))
    code, output = xdc("embed", tmp_path / "exported" / "audio", some, "--out", tmp_path / "one", "--round", 0)
    assert code == 2
    assert "has the encoder at the start of round 1 only" in output
    code, output = xdc("embed", tmp_path / "exported" / "audio", some, "--out", tmp_path / "one")
    assert code == 0, output
    assert open_run(tmp_path / "one").config.modalities == ("audio",)
