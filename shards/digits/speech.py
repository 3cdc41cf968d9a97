"""Recorded digits in the layout of the Free Spoken Digit Dataset: `{digit}_{speaker}_{index}.wav`, mono.

The official split is used: the indices 0 to 4 of every digit and speaker are for test, the others for training. If a
corpus has clips for validation, only they use 5 to 9. The data set has 8 kHz; other rates are accepted, too.
"""

import hashlib
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.digits.factors import Voices
from shards.digits.settings import SAMPLE_RATE
from shards.errors import ConfigError

SOURCE = "recordings in the layout of the Free Spoken Digit Dataset"
TEST_TAKES = range(5)
VALIDATION_TAKES = range(5, 10)
_NAME = re.compile(r"([0-9])_(.+)_([0-9]+)\.wav", re.IGNORECASE)


@dataclass(frozen=True)
class Recording:
    """One WAV file: its digit, its speaker, and the number of the take."""

    path: Path
    digit: int
    speaker: str
    take: int


def list_recordings(folder: Path) -> dict[tuple[int, str, int], Recording]:
    """Return the recordings of a folder, sorted by (digit, speaker, take). Files that are not WAV are ignored.

    Raises:
        ConfigError: no such folder, no WAV in it, or a WAV whose name has another form.
    """
    if not folder.is_dir():
        raise ConfigError(f"speech: {folder} is not a folder. Give the folder that holds the WAV files.")
    by_take: dict[tuple[int, str, int], Recording] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() != ".wav":
            continue
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise ConfigError(
                f"speech: {path} is not named digit_speaker_index.wav, as 3_jackson_12.wav is. "
                "Rename it or take it out of the folder."
            )
        digit, speaker, take = int(match[1]), match[2], int(match[3])
        if (digit, speaker, take) in by_take:
            raise ConfigError(
                f"speech: {path} and {by_take[digit, speaker, take].path.name} are both take {take} of digit "
                f"{digit} by {speaker}. Take one of them out of the folder."
            )
        by_take[digit, speaker, take] = Recording(path, digit, speaker, take)
    if not by_take:
        raise ConfigError(
            f"speech: {folder} holds no WAV file. Files named digit_speaker_index.wav, as 3_jackson_12.wav "
            "is, are expected in the folder itself, not below it."
        )
    return dict(sorted(by_take.items()))


def split_of(take: int, validated: bool) -> str:
    """Return the split of a take."""
    if take in TEST_TAKES:
        return "test"
    return "validation" if validated and take in VALIDATION_TAKES else "train"


def recorded_voices(recordings: dict[tuple[int, str, int], Recording], split: str, validated: bool = False) -> Voices:
    """Return the voices of the split `train`, `validation` or `test`; `validated`: the corpus has all three.

    Raises:
        ConfigError: a speaker lacks a digit in this split, so that speaker and digit cannot be drawn independently.
    """
    takes: dict[tuple[int, str], tuple[int, ...]] = {}
    for digit, speaker, take in recordings:
        if split_of(take, validated) == split:
            takes[digit, speaker] = (*takes.get((digit, speaker), ()), take)
    speakers = tuple(sorted({speaker for _, speaker, _ in recordings}))
    indices = {"test": "0 to 4", "validation": "5 to 9", "train": "10 and up" if validated else "5 and up"}[split]
    for digit, speaker in product(range(10), speakers):
        if (digit, speaker) not in takes:
            raise ConfigError(
                f"speech: {speaker} says no {digit} in the split {split}: {digit}_{speaker}_INDEX.wav with an "
                f"index of {indices}. Every speaker must say every digit: add recordings, or take this speaker "
                "out of the folder."
            )
    return Voices(speakers, takes)


def digest_recordings(recordings: dict[tuple[int, str, int], Recording]) -> str:
    """Return the sha256, as 64 hex digits, of the names and bytes of all recordings."""
    total = hashlib.sha256()
    for recording in recordings.values():
        content = hashlib.sha256(recording.path.read_bytes()).hexdigest()
        total.update(f"{recording.path.name} {content}\n".encode())
    return total.hexdigest()


def read_recording(recording: Recording) -> NDArray[np.float64]:
    """Return a recording's sound: float64 [N], resampled to 16 kHz, at its own level.

    Raises:
        ConfigError: the file is not a WAV file, is not mono, or is empty or silent.
    """
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    try:
        rate, sound = wavfile.read(recording.path)
    except (ValueError, OSError) as error:
        raise ConfigError(f"speech: {recording.path} cannot be read as WAV ({error}). Replace it.") from error
    if sound.ndim != 1:
        raise ConfigError(f"speech: {recording.path} has {sound.shape[1]} channels. Mono is expected.")
    if not sound.any():
        raise ConfigError(f"speech: {recording.path} holds no sound ({len(sound)} samples, all zero). Replace it.")
    if sound.dtype == np.uint8:
        sound = sound.astype(np.int16) - 128  # WAV of 8 bits is unsigned.
    divisor = int(np.gcd(SAMPLE_RATE, rate))
    resampled: NDArray[np.float64] = resample_poly(sound.astype(np.float64), SAMPLE_RATE // divisor, rate // divisor)
    return resampled
