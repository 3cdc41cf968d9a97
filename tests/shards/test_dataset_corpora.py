"""Data sets in their layouts become corpora: labels, splits and rejects are those of the lists."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.corpus.index import label_columns, read_whole_index
from shards.corpus.reader import ClipReader
from shards.corpus.seen import corpus_fingerprint_now
from shards.corpus.stage import shard
from shards.errors import ConfigError
from shards.layouts.registry import read_dataset
from shards.media.decode import decode_frames, decode_sound
from shards.settings import CorpusSettings
from shards.store.manifest import read_manifest
from tests.shards.dataset_maker import make_esc50, make_ucf101, put, write_lines
from tests.shards.media_maker import plain, tone, write_video

ID, ID_2 = "-0RWZT-miFs", "aB3_defghij"


def settings(layout: str, *modalities: str) -> CorpusSettings:
    return CorpusSettings.model_validate(
        {
            "layout": layout,
            "modalities": modalities,
            "clip_seconds": 1.0,
            "min_seconds": 0.5,
            "short_side": 32,
            "fps": 10,
            "sample_rate": 8000,
            "workers": 2,
        }
    )


def test_a_data_set_of_sound_becomes_a_corpus_of_sound(tmp_path: Path) -> None:
    make_esc50(tmp_path / "esc")
    corpus, asked = tmp_path / "corpus", settings("esc50", "audio")
    record = shard(corpus, tmp_path / "esc", asked)
    dataset = read_dataset("esc50", tmp_path / "esc")
    assert (record.rows, record.rejects) == (len(dataset.sources), 0)
    index = read_whole_index(corpus).to_pylist()
    # A clip's source is the path by which the splits know it.
    assert {row["source"]: row["label"] for row in index} == {
        source.path: source.labels["label"] for source in dataset.sources
    }
    assert all(set(split.roles) == {row["source"] for row in index} for split in dataset.splits)
    with ClipReader(corpus) as reader:
        for row in index:
            assert np.abs(decode_sound(reader.read(row["shard"], row, "flac"))).max() > 0.4
    assert corpus_fingerprint_now(corpus, tmp_path / "esc", asked) == (record.fingerprint, "")
    assert shard(corpus, tmp_path / "esc", asked).reused


def test_a_data_set_of_videos_becomes_a_corpus_of_pictures(tmp_path: Path) -> None:
    make_ucf101(tmp_path / "ucf")
    put(tmp_path / "ucf", "UCF-101/YoYo/v_YoYo_g07_c01.avi")
    record = shard(tmp_path / "corpus", tmp_path / "ucf", settings("ucf101", "video"))
    assert (record.rows, record.rejects) == (9, 1)
    with ClipReader(tmp_path / "corpus") as reader:
        for row in read_whole_index(tmp_path / "corpus").to_pylist():
            assert row["source"].split("/")[1] == row["label"]
            assert decode_frames(reader.read(row["shard"], row, "mp4"), 0, row["frames"]).shape == (10, 32, 42, 3)
    (reject,) = pq.read_table(tmp_path / "corpus" / "rejects.parquet").to_pylist()
    assert (reject["step"], reject["reason"]) == ("list", "no list names it")


def test_segments_of_whole_videos_are_cut_out(tmp_path: Path) -> None:
    videos = tmp_path / "audioset"
    frames = [plain((0, 0, 0) if n < 50 else (250, 250, 250)) for n in range(100)]
    write_video(videos / f"{ID}.mp4", frames, np.concatenate([tone(300, 2.0), tone(1000, 2.0)]))
    write_video(videos / f"clips/{ID_2}_100_101.mp4", frames[:25], tone(300, 1.0))
    lines = [f'{ID}, 2.000, 4.000, "/m/0k4j,/m/09x0r"', f'{ID_2}, 100.000, 101.000, "/m/0k4j"']
    write_lines(videos / "balanced_train_segments.csv", ["# x", *lines])
    record = shard(tmp_path / "corpus", videos, settings("audioset", "video", "audio"))
    assert (record.rows, record.rejects) == (3, 0)
    assert label_columns(tmp_path / "corpus") == ["label", "label_all"]
    rows = sorted(read_whole_index(tmp_path / "corpus").to_pylist(), key=lambda row: (row["source"], row["start_s"]))
    assert [(row["source"], row["start_s"], row["split"], row["label_all"]) for row in rows] == [
        (f"{ID}.mp4", 2.0, "train", "/m/0k4j;/m/09x0r"),
        (f"{ID}.mp4", 3.0, "train", "/m/0k4j;/m/09x0r"),
        (f"clips/{ID_2}_100_101.mp4", 0.0, "train", "/m/0k4j"),
    ]
    with ClipReader(tmp_path / "corpus") as reader:
        shades = [decode_frames(reader.read(row["shard"], row, "mp4"), 0, row["frames"]).mean() for row in rows]
    assert shades[0] == pytest.approx(250, abs=4)
    assert shades[2] == pytest.approx(0, abs=4)


def test_another_layout_makes_another_corpus_of_the_same_files(tmp_path: Path) -> None:
    make_esc50(tmp_path / "esc")
    corpus = tmp_path / "corpus"
    first = shard(corpus, tmp_path / "esc", settings("esc50", "audio"))
    second = shard(corpus, tmp_path / "esc", settings("esc10", "audio"))
    assert not second.reused
    assert (second.rows, second.fingerprint == first.fingerprint) == (10, False)
    manifest = read_manifest(corpus)
    assert manifest is not None
    assert manifest.settings["layout"] == "esc10"
    with pytest.raises(ConfigError, match=r"no trainlist01\.txt in it"):
        shard(corpus, tmp_path / "esc", settings("ucf101", "video"))
