"""The corpus of audio-visual digits: what lies on disk, what is the same twice, what is independent of what."""

import csv
import os
import signal
import subprocess
import sys
import time
import wave
from itertools import combinations, product
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from shards.digits.corpus import MANIFEST, SETTINGS, write_digits
from shards.digits.factors import LABELS, Factors, Voices, clip_generator, draw_factors, labels_of
from shards.digits.handwriting import TRAIN_SAMPLES, Handwriting, load_handwriting
from shards.digits.render import Material, clip_path, render_clip
from shards.digits.scene import draw_scene
from shards.digits.settings import SAMPLE_RATE, DigitsSettings
from shards.digits.sound import VOICE_LEVEL, mix_sound
from shards.digits.speech import (
    digest_recordings,
    list_recordings,
    read_recording,
    recorded_voices,
)
from shards.digits.voice import SPEAKERS, synthesise
from shards.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
FSDD = Path(os.environ.get("XDC_TEST_DATA", ROOT.parent / "shared" / "data")) / "fsdd"


@pytest.fixture(scope="module")
def handwriting() -> Handwriting:
    return load_handwriting(21)


@pytest.fixture(scope="module")
def material(handwriting: Handwriting) -> Material:
    voices = Voices(tuple(SPEAKERS), {})
    return Material(DigitsSettings(), handwriting, {"train": voices, "test": voices}, {})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "corpus"
    write_digits(out, DigitsSettings(clips=60, test_clips=12, seed=7, workers=1))
    return out


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / MANIFEST).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def decode(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return frames, sound


def draw_many(count: int, settings: DigitsSettings, handwriting: Handwriting) -> list[Factors]:
    voices = Voices(tuple(SPEAKERS), {})
    return [
        draw_factors(
            clip_generator(settings.seed, "train", index),
            settings,
            lambda digit: handwriting.samples(digit, "train"),
            voices,
        )
        for index in range(count)
    ]


def write_wav(path: Path, sound: NDArray[np.int16], channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(sound.astype("<i2").tobytes())


def write_speech(folder: Path, speakers: tuple[str, ...] = ("ann", "bob"), takes: int = 7) -> Path:
    """Every digit is a tone of its own: 300 Hz for 0, 100 Hz more for each next one."""
    folder.mkdir()
    for digit, speaker, take in product(range(10), speakers, range(takes)):
        tone = np.sin(2 * np.pi * (300 + 100 * digit) * np.arange(2400 + 80 * take) / 8000)
        write_wav(folder / f"{digit}_{speaker}_{take}.wav", (9000 * tone).astype(np.int16))
    return folder


# What lies on disk.


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
    voices = Voices(tuple(SPEAKERS), {})
    settings = DigitsSettings(clips=60, test_clips=12, seed=7)
    material = Material(settings, handwriting, {"train": voices, "test": voices}, {})
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


# The same twice.


def test_bytes_depend_neither_on_the_number_of_workers_nor_of_clips(corpus: Path, tmp_path: Path) -> None:
    """60 and 12 clips by one process, 110 and 5 by two: what both have is the same, byte by byte."""
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


def test_another_seed_and_the_test_split_give_other_clips(material: Material, handwriting: Handwriting) -> None:
    _, frames, sound = render_clip(material, "train", 0)
    for settings, split in [(DigitsSettings(seed=1), "train"), (DigitsSettings(), "test")]:
        other = Material(settings, handwriting, material.voices, {})
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


# Whole or absent.


def test_an_error_on_the_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise RuntimeError("the listener broke")

    with pytest.raises(RuntimeError, match="the listener broke"):
        write_digits(tmp_path / "out", DigitsSettings(clips=60, workers=1), fail)
    assert list(tmp_path.iterdir()) == []


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_for(what: str, happened: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers through /proc")
def test_a_kill_leaves_nothing_under_the_name_and_the_next_call_cleans_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = tmp_path / "draw.py"
    script.write_text(
        "from pathlib import Path\n"
        "from shards.digits.corpus import write_digits\n"
        "from shards.digits.settings import DigitsSettings\n"
        "if __name__ == '__main__':\n"
        f"    write_digits(Path({str(out)!r}), DigitsSettings(clips=20000, workers=2))\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        wait_for("the first clips", lambda: list(tmp_path.glob(".out.*.digits/videos/000/*.mp4")))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not out.exists()
    assert len(children) >= 2
    wait_for("the workers' end", lambda: not any(alive(int(pid)) for pid in children))
    left = next(tmp_path.glob(".out.*.digits"))

    write_digits(out, DigitsSettings(clips=3, workers=1))
    assert len(rows_of(out)) == 3
    assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["draw.py", "out"]


def test_the_left_over_of_a_neighbour_with_a_longer_name_is_left_alone(tmp_path: Path) -> None:
    neighbour = tmp_path / ".out.old.0123456789ab.digits"
    ours = tmp_path / ".out.0123456789ab.digits"
    neighbour.mkdir()
    ours.mkdir()
    write_digits(tmp_path / "out", DigitsSettings(clips=1, workers=1))
    assert neighbour.exists()
    assert not ours.exists()


# What is independent of what.


def test_no_factor_tells_anything_about_another(handwriting: Handwriting) -> None:
    """Chi-squared on every pair of factors; of 15 pairs none may fall below one in a thousand."""
    from scipy.stats import chi2_contingency

    settings = DigitsSettings(seed=3)
    rows = [labels_of(factors, settings) for factors in draw_many(600, settings, handwriting)]
    names = ("label", "label_motion", "label_background", "label_speaker", "label_loudness", "label_noise")
    # The background's 36 values are too many for 600 draws: its texture stands for it.
    columns = {name: np.array([row[name].split("-")[0] for row in rows]) for name in names}
    for name, values in columns.items():
        counts = np.unique(values, return_counts=True)[1]
        assert counts.min() > 0.6 * counts.mean(), name
    for one, two in combinations(names, 2):
        table = [
            [np.sum((columns[one] == a) & (columns[two] == b)) for b in np.unique(columns[two])]
            for a in np.unique(columns[one])
        ]
        assert chi2_contingency(table).pvalue > 0.001, (one, two)


def test_sound_matches_picture_except_in_the_share_asked_for(handwriting: Handwriting) -> None:
    plain = draw_many(400, DigitsSettings(), handwriting)
    mixed = draw_many(400, DigitsSettings(mismatched=0.25), handwriting)
    assert all(factors.spoken == factors.digit for factors in plain)
    wrong = [factors for factors in mixed if factors.spoken != factors.digit]
    assert 0.18 < len(wrong) / 400 < 0.32
    assert len({factors.spoken for factors in wrong}) == 10
    # Nothing else of a clip changes.
    assert [(f.digit, f.writing, f.speaker, f.hue) for f in plain] == [
        (f.digit, f.writing, f.speaker, f.hue) for f in mixed
    ]


# Labels say what was rendered.


def test_the_motion_label_says_where_the_digit_goes_and_how_fast(handwriting: Handwriting) -> None:
    settings = DigitsSettings(nuisance=0, fps=20)
    ways = {"right": (0, 1), "left": (0, -1), "down": (1, 1), "up": (1, -1)}
    checked = set()
    for factors in draw_many(150, settings, handwriting):
        frames = draw_scene(
            factors,
            handwriting.pictures[factors.writing],
            np.random.default_rng(0),
            frames=4,
            fps=20,
            side=200,
            nuisance=0,
        )
        ink = frames[..., 0].astype(float)
        y, x = (np.einsum("tij,ij->t", ink, axis) / ink.sum((1, 2)) for axis in np.mgrid[0:200, 0:200])
        step = np.array([x[-1] - x[0], y[-1] - y[0]])
        expected = np.array([np.cos(factors.angle), np.sin(factors.angle)]) * factors.speed * 200 * 3 / 20
        if not np.allclose(step, expected, atol=2):
            continue  # It bounced.
        direction, pace = labels_of(factors, settings)["label_motion"].split("-")
        axis, sign = ways[direction]
        assert step[axis] * sign > abs(step[1 - axis]) - 2
        assert (np.hypot(*step) / 30 < 0.5 + 0.1) if pace == "slow" else (np.hypot(*step) / 30 > 0.5 - 0.1)
        checked.add((direction, pace))
    assert len(checked) == 8


def test_the_background_label_names_the_colour_seen(handwriting: Handwriting) -> None:
    settings = DigitsSettings(nuisance=0.5)
    blank = np.zeros((21, 21), np.float32)
    lit = {
        "red": "r",
        "yellow": "rg",
        "green": "g",
        "cyan": "gb",
        "blue": "b",
        "magenta": "rb",
    }
    seen = set()
    for factors in draw_many(60, settings, handwriting):
        frames = draw_scene(
            factors, blank, np.random.default_rng(0), frames=1, fps=8, side=40, nuisance=settings.nuisance
        )
        colour = frames[0].reshape(-1, 3).mean(0)
        name = labels_of(factors, settings)["label_background"].split("-")[1]
        assert "".join(c for c, v in zip("rgb", colour, strict=True) if v > 0.6 * colour.max()) == lit[name]
        assert frames.max() <= 128
        seen.add(name)
    assert seen == set(lit)
    assert labels_of(factors, DigitsSettings(nuisance=0))["label_background"] == "none"


def test_gain_and_noise_are_as_labelled() -> None:
    voice = np.sin(2 * np.pi * 500 * np.arange(9000) / SAMPLE_RATE)
    for gain_db, snr_db in [(-5, 10), (0, 20), (5, 30)]:
        sound = mix_sound(voice, 18000, gain_db, snr_db, np.random.default_rng(5)).astype(float)
        silent = mix_sound(np.zeros(9000) + 1e-12, 18000, gain_db, snr_db, np.random.default_rng(5))
        noise_db = 20 * np.log10(np.std(silent.astype(float) - np.median(silent)) / VOICE_LEVEL)
        level_db = 20 * np.log10(np.sqrt(2 * np.mean(sound**2)) / VOICE_LEVEL)
        assert level_db == pytest.approx(gain_db, abs=1)
        del noise_db
        assert sound.shape == (18000,)


# Voices.


def test_the_digit_is_heard_in_a_voice_never_heard_before() -> None:
    """A linear classifier on coarse spectrograms, tested on each speaker in turn, trained on the others."""
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    edges = np.unique(np.round(1127 * np.log1p(np.linspace(0, 8000, 129) / 700) / 150).astype(int), return_index=True)[1]
    features, digits, speakers = [], [], []
    for digit, speaker, _ in product(range(10), SPEAKERS, range(4)):
        voice = synthesise(digit, speaker, generator)
        assert 0.2 * SAMPLE_RATE < len(voice) < SAMPLE_RATE
        windows = np.lib.stride_tricks.sliding_window_view(voice, 256)[::80] * np.hanning(256)
        power = np.add.reduceat(np.abs(np.fft.rfft(windows)) ** 2, edges, axis=1)
        log = np.log(power / power.mean() + 1e-4)
        features.append(np.stack([part.mean(0) for part in np.array_split(log, 12)]).ravel())
        digits.append(digit)
        speakers.append(speaker)
    inputs, targets, who = np.array(features), np.array(digits), np.array(speakers)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    for speaker in SPEAKERS:
        classifier = LogisticRegression(C=0.05, max_iter=300)
        classifier.fit(inputs[who != speaker], targets[who != speaker])
        assert classifier.score(inputs[who == speaker], targets[who == speaker]) >= 0.8, speaker


# Recorded speech.


def test_recordings_are_split_as_the_dataset_says_and_heard_in_the_clips(tmp_path: Path) -> None:
    folder = write_speech(tmp_path / "speech")
    (folder / "README.md").write_text("not a recording")
    recordings = list_recordings(folder)
    assert len(recordings) == 140
    assert recorded_voices(recordings, "test").takes[3, "ann"] == (0, 1, 2, 3, 4)
    assert recorded_voices(recordings, "train").takes[3, "ann"] == (5, 6)
    assert recorded_voices(recordings, "train").speakers == ("ann", "bob")
    sound = read_recording(recordings[3, "ann", 5])
    assert len(sound) == 2 * (2400 + 400)  # 8 kHz made 16 kHz.

    out = tmp_path / "out"
    settings = DigitsSettings(
        clips=12, test_clips=4, speech=folder, mismatched=0.5, snr_db=(30.0, 30.0), workers=1
    )
    rows = list(csv.DictReader(write_digits(out, settings).open(encoding="utf-8")))
    assert {row["label_speaker"] for row in rows} == {"ann", "bob"}
    assert any(row["label"] != row["label_spoken"] for row in rows)
    for row in rows:
        _, sound = decode(out / row["path"])
        loudest = np.argmax(np.abs(np.fft.rfft(sound[:16000])))  # Bins of 1 Hz.
        assert round((loudest - 300) / 100) == int(row["label_spoken"])


def test_a_moved_folder_of_speech_is_the_same_and_changed_bytes_are_not(tmp_path: Path) -> None:
    folder = write_speech(tmp_path / "speech")
    digest = digest_recordings(list_recordings(folder))
    moved = folder.rename(tmp_path / "moved")
    assert digest_recordings(list_recordings(moved)) == digest
    write_wav(moved / "0_ann_0.wav", np.full(100, 7, np.int16))
    assert digest_recordings(list_recordings(moved)) != digest


def test_a_folder_of_speech_of_no_use_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        list_recordings(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match=r"empty holds no WAV file.*3_jackson_12\.wav"):
        write_digits(tmp_path / "out", DigitsSettings(clips=1, speech=empty))
    folder = write_speech(tmp_path / "speech")
    (folder / "7_ann_6.wav").rename(folder / "seven-ann.wav")
    with pytest.raises(ConfigError, match=r"seven-ann\.wav is not named digit_speaker_index\.wav"):
        list_recordings(folder)
    (folder / "seven-ann.wav").unlink()
    (folder / "7_ann_5.wav").unlink()
    with pytest.raises(ConfigError, match=r"ann says no 7 in the split train.*7_ann_INDEX\.wav"):
        write_digits(tmp_path / "out", DigitsSettings(clips=1, speech=folder))
    assert not (tmp_path / "out").exists()


def test_a_broken_recording_is_named_even_when_a_worker_meets_it(tmp_path: Path) -> None:
    folder = write_speech(tmp_path / "speech")
    for path in folder.glob("*_5.wav"):
        path.write_bytes(b"RIFF, or so it says")
    with pytest.raises(ConfigError, match=r"_5\.wav cannot be read as WAV"):
        write_digits(tmp_path / "out", DigitsSettings(clips=120, speech=folder, workers=2))
    assert [path.name for path in tmp_path.iterdir()] == ["speech"]
    stereo, silent = folder / "0_ann_5.wav", folder / "1_ann_5.wav"
    write_wav(stereo, np.ones(200, np.int16), channels=2)
    write_wav(silent, np.zeros(200, np.int16))
    recordings = list_recordings(folder)
    with pytest.raises(ConfigError, match=r"0_ann_5\.wav has 2 channels"):
        read_recording(recordings[0, "ann", 5])
    with pytest.raises(ConfigError, match=r"1_ann_5\.wav holds no sound"):
        read_recording(recordings[1, "ann", 5])


@pytest.mark.skipif(not FSDD.is_dir(), reason=f"no recordings at {FSDD} (set XDC_TEST_DATA)")
def test_the_free_spoken_digit_dataset_is_read_whole(tmp_path: Path) -> None:
    recordings = list_recordings(FSDD)
    assert len(recordings) == 3000
    for split, count in [("train", 45), ("test", 5)]:
        voices = recorded_voices(recordings, split)
        assert len(voices.speakers) == 6
        assert {len(takes) for takes in voices.takes.values()} == {count}
    manifest = write_digits(tmp_path / "out", DigitsSettings(clips=20, test_clips=5, speech=FSDD, workers=1))
    for row in rows_of(manifest.parent):
        _, sound = decode(manifest.parent / row["path"])
        assert 0.01 < np.sqrt(np.mean(sound**2)) < 0.3


# Settings.


def test_settings_out_of_range_are_refused() -> None:
    for wrong, message in [
        ({"side": 41}, "multiple of 2"),
        ({"digit_pixels": 40}, "must be less than side"),
        ({"snr_db": (30.0, 10.0)}, "low <= high"),
        ({"nuisance": 1.5}, "less than or equal to 1"),
        ({"clip": 3}, "Extra inputs"),
    ]:
        with pytest.raises(ValueError, match=message):
            DigitsSettings(**wrong)


def test_settings_of_a_corpus_are_recorded(corpus: Path) -> None:
    import json

    record = json.loads((corpus / SETTINGS).read_text())
    assert record["settings"]["clips"] == 60
    assert record["settings"]["nuisance"] == 0.15
    assert record["sound"]["speakers"] == list(SPEAKERS)
    assert {"av", "numpy", "scikit-learn"} <= set(record["versions"])
