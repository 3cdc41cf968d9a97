"""Recorded digits in the layout of the Free Spoken Digit Dataset, as the voices of a corpus."""

import csv
import wave
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from shards.digits.corpus import write_digits
from shards.digits.settings import DigitsSettings
from shards.digits.speech import (
    digest_recordings,
    list_recordings,
    read_recording,
    recorded_voices,
)
from shards.errors import ConfigError
from tests.places import DATA

FSDD = DATA / "fsdd"


def sound_of(path: Path) -> NDArray[Any]:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


def write_wav(path: Path, sound: NDArray[np.int16], channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(sound.astype("<i2").tobytes())


def write_speech(folder: Path) -> Path:
    """Every digit is a tone of its own: 300 Hz for 0, 100 Hz more for each next one."""
    folder.mkdir()
    for digit, speaker, number in product(range(10), ("ann", "bob"), range(7)):
        take = number if number < 6 else number + digit  # No two digits have the same takes.
        tone = np.sin(2 * np.pi * (300 + 100 * digit) * np.arange(2400 + 80 * take) / 8000)
        write_wav(folder / f"{digit}_{speaker}_{take}.wav", (9000 * tone).astype(np.int16))
    return folder


def test_recordings_are_split_as_the_dataset_says_and_heard_in_the_clips(tmp_path: Path) -> None:
    folder = write_speech(tmp_path / "speech")
    (folder / "README.md").write_text("not a recording")
    recordings = list_recordings(folder)
    assert len(recordings) == 140
    assert recorded_voices(recordings, "test").takes[3, "ann"] == (0, 1, 2, 3, 4)
    assert recorded_voices(recordings, "test", validated=True).takes[3, "ann"] == (0, 1, 2, 3, 4)
    assert recorded_voices(recordings, "validation", validated=True).takes[3, "ann"] == (5, 9)
    assert recorded_voices(recordings, "train").takes[3, "ann"] == (5, 9)
    assert recorded_voices(recordings, "train").speakers == ("ann", "bob")
    sound = read_recording(recordings[3, "ann", 5])
    assert len(sound) == 2 * (2400 + 400)  # 8 kHz made 16 kHz.

    out = tmp_path / "out"
    settings = DigitsSettings(clips=12, test_clips=4, speech=folder, mismatched=0.5, snr_db=(30.0, 30.0), workers=1)
    rows = list(csv.DictReader(write_digits(out, settings).open(encoding="utf-8")))
    assert {row["label_speaker"] for row in rows} == {"ann", "bob"}
    assert any(row["label"] != row["label_spoken"] for row in rows)
    for row in rows:
        heard = sound_of(out / row["path"])
        loudest = np.argmax(np.abs(np.fft.rfft(heard[:16000])))  # Bins of 1 Hz.
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
    (folder / "7_ann_13.wav").rename(folder / "seven-ann.wav")
    with pytest.raises(ConfigError, match=r"seven-ann\.wav is not named digit_speaker_index\.wav"):
        list_recordings(folder)
    (folder / "seven-ann.wav").unlink()
    (folder / "7_ann_5.wav").unlink()
    with pytest.raises(ConfigError, match=r"ann says no 7 in the split train.*7_ann_INDEX\.wav"):
        write_digits(tmp_path / "out", DigitsSettings(clips=1, speech=folder))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
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
    for path in manifest.parent.rglob("*.mp4"):
        sound = sound_of(path)
        assert 0.01 < np.sqrt(np.mean(sound**2)) < 0.3
