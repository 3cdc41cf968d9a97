"""A corpus of audio-visual digits on disk: what it holds, that it is the same twice, and whole or absent."""

import csv
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from shards.digits.corpus import MANIFEST, SETTINGS, write_digits
from shards.digits.factors import LABELS, Voices, labels_of
from shards.digits.handwriting import TRAIN_SAMPLES, Handwriting, load_handwriting
from shards.digits.render import Material, clip_path, render_clip
from shards.digits.settings import SAMPLE_RATE, DigitsSettings
from shards.digits.voice import SPEAKERS
from shards.errors import ConfigError


@pytest.fixture(scope="module")
def handwriting() -> Handwriting:
    return load_handwriting(21)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "corpus"
    write_digits(out, DigitsSettings(clips=60, test_clips=12, seed=7, workers=1))
    return out


def material_of(settings: DigitsSettings, handwriting: Handwriting) -> Material:
    voices = Voices(tuple(SPEAKERS), {})
    return Material(settings, handwriting, {"train": voices, "test": voices}, {})


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / MANIFEST).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def decode(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return frames, sound


def test_every_clip_of_the_manifest_is_a_video_with_picture_and_sound_of_its_length(corpus: Path) -> None:
    rows = rows_of(corpus)
    assert [row["split"] for row in rows] == ["train"] * 60 + ["test"] * 12
    assert list(rows[0]) == ["path", *LABELS, "split"]
    assert {row["path"] for row in rows} == {str(p.relative_to(corpus)) for p in corpus.rglob("*.mp4")}
    for row in rows:
        with av.open(str(corpus / row["path"])) as container:
            assert [stream.codec_context.name for stream in container.streams] == ["h264", "aac"]
            assert container.duration == pytest.approx(1.125e6, abs=1000)
            assert container.streams.audio[0].rate == SAMPLE_RATE
            assert "creation_time" not in container.metadata
        frames, sound = decode(corpus / row["path"])
        assert frames.shape == (9, 40, 40, 3)
        assert 0 <= len(sound) - 18000 < 1024  # AAC comes in blocks of 1024.


def test_the_files_hold_what_was_rendered(corpus: Path, handwriting: Handwriting) -> None:
    settings = DigitsSettings(clips=60, test_clips=12, seed=7)
    material = material_of(settings, handwriting)
    by_path = {row["path"]: row for row in rows_of(corpus)}
    for split, index in [("train", 0), ("train", 41), ("test", 3)]:
        factors, frames, sound = render_clip(material, split, index)
        row = by_path[clip_path(split, index)]
        assert {name: row[name] for name in LABELS} == labels_of(factors, settings)
        stored_frames, stored_sound = decode(corpus / row["path"])
        assert np.abs(stored_frames.astype(float) - frames).mean() < 8
        error = stored_sound[: len(sound)] - sound
        assert np.mean(error**2) < 0.02 * np.mean(sound**2)


def test_handwriting_of_test_clips_is_never_seen_in_training(corpus: Path, handwriting: Handwriting) -> None:
    written = {
        split: {int(row["label_writing"]) for row in rows_of(corpus) if row["split"] == split}
        for split in ("train", "test")
    }
    assert max(written["train"]) < TRAIN_SAMPLES <= min(written["test"])
    for split, count in [("train", 1400), ("test", 397)]:
        pool = [handwriting.samples(digit, split) for digit in range(10)]
        assert sum(map(len, pool)) == count
        assert min(map(len, pool)) > 30
    for row in rows_of(corpus):
        assert handwriting.digits[int(row["label_writing"])] == int(row["label"])


def test_what_is_held_out_for_validation_is_seen_in_no_other_split(handwriting: Handwriting) -> None:
    parts = [
        {number for digit in range(10) for number in handwriting.samples(digit, split, validated=True).tolist()}
        for split in ("train", "validation", "test")
    ]
    assert [len(part) for part in parts] == [1200, 200, 397]
    assert len(set.union(*parts)) == 1797
    assert min(len(handwriting.samples(digit, "validation")) for digit in range(10)) > 10


def test_a_corpus_for_studies_has_three_splits_and_other_settings(tmp_path: Path) -> None:
    settings = DigitsSettings(clips=12, validation_clips=6, test_clips=4, workers=1)
    rows = rows_of(write_digits(tmp_path / "out", settings).parent)
    assert [row["split"] for row in rows] == ["train"] * 12 + ["validation"] * 6 + ["test"] * 4
    assert all(1200 <= int(row["label_writing"]) < 1400 for row in rows if row["split"] == "validation")
    assert all(int(row["label_writing"]) < 1200 for row in rows if row["split"] == "train")
    with pytest.raises(ConfigError, match="validation_clips: 6 there, 0 asked for"):
        write_digits(tmp_path / "out", DigitsSettings(clips=12, test_clips=4, workers=1))


def test_bytes_depend_neither_on_the_number_of_workers_nor_of_clips(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 and 12 clips by one process, 110 and 5 by two: what both have is the same, byte by byte."""
    # glibc fills new memory with this byte in the workers: an encoder that reads what it never wrote shows it.
    monkeypatch.setenv("MALLOC_PERTURB_", "85")
    seen: list[tuple[int, int]] = []
    other = tmp_path / "other"
    write_digits(
        other,
        DigitsSettings(clips=110, test_clips=5, seed=7, workers=2),
        lambda done, total: seen.append((done, total)),
    )
    shared = [clip_path("train", index) for index in range(60)] + [clip_path("test", i) for i in range(5)]
    for name in shared:
        assert (corpus / name).read_bytes() == (other / name).read_bytes(), name
    ours, theirs = ({row["path"]: row for row in rows_of(out)} for out in (corpus, other))
    assert [ours[name] for name in shared] == [theirs[name] for name in shared]
    assert seen[-1] == (115, 115)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_another_seed_and_the_test_split_give_other_clips(handwriting: Handwriting) -> None:
    _, frames, sound = render_clip(material_of(DigitsSettings(), handwriting), "train", 0)
    for seed, split in [(1, "train"), (0, "test")]:
        other = material_of(DigitsSettings(seed=seed), handwriting)
        _, other_frames, other_sound = render_clip(other, split, 0)
        assert not np.array_equal(frames, other_frames)
        assert not np.array_equal(sound, other_sound)


def test_a_finished_corpus_is_returned_untouched(corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}

    def drawn(done: int, total: int) -> None:
        raise AssertionError(f"clips were drawn again: {done} of {total}")

    settings = DigitsSettings(clips=60, test_clips=12, seed=7, workers=2)
    assert write_digits(corpus, settings, drawn) == corpus / MANIFEST
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_other_settings_are_refused_and_named(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"seed: 7 there, 8 asked for.*another folder or delete"):
        write_digits(corpus, DigitsSettings(clips=60, test_clips=12, seed=8))


def test_a_folder_of_something_else_is_refused_and_an_empty_one_is_filled(tmp_path: Path) -> None:
    theses = tmp_path / "theses"
    theses.mkdir()
    (theses / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not a corpus of digits"):
        write_digits(theses, DigitsSettings(clips=1))
    assert [path.name for path in tmp_path.iterdir()] == ["theses"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert write_digits(empty, DigitsSettings(clips=1, workers=1)).is_file()


def test_a_corpus_that_lost_a_clip_is_not_reused(tmp_path: Path) -> None:
    settings = DigitsSettings(clips=2, workers=1)
    write_digits(tmp_path / "out", settings)
    (tmp_path / "out" / clip_path("train", 1)).unlink()
    with pytest.raises(ConfigError, match=r"lost 1 of its clips, videos/000/000001\.mp4 first"):
        write_digits(tmp_path / "out", settings)


def test_settings_out_of_range_are_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"side": 41}, "multiple of 2"),
        ({"digit_pixels": 40}, "must be less than side"),
        ({"snr_db": (30.0, 10.0)}, "low <= high"),
        ({"nuisance": 1.5}, "less than or equal to 1"),
        ({"clip": 3}, "Extra inputs"),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            DigitsSettings(**wrong)


def test_settings_of_a_corpus_are_recorded(corpus: Path) -> None:
    record = json.loads((corpus / SETTINGS).read_text())
    assert record["settings"]["clips"] == 60
    assert record["settings"]["nuisance"] == 0.15
    assert record["sound"]["speakers"] == list(SPEAKERS)
    assert {"av", "numpy", "scikit-learn"} <= set(record["versions"])
