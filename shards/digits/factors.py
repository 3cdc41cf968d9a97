"""The factors of a clip: the digit, shared by picture and sound, and factors private to each.

All are drawn independently of each other, so that the digit is the only information that one modality has about the
other.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.digits.settings import DigitsSettings

TEXTURES = ("stripes", "checks", "waves", "rings", "blobs", "grain")
HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")
DIRECTIONS = ("right", "down", "left", "up")
SLOWEST, FASTEST = 0.2, 0.8  # Sides of the picture per second.

LABELS = (
    "label",
    "label_writing",
    "label_motion",
    "label_background",
    "label_speaker",
    "label_loudness",
    "label_noise",
    "label_spoken",
)


@dataclass(frozen=True)
class Factors:
    """The factors with which one clip is rendered.

    `digit` is shown and `spoken` is heard: they differ in mismatched clips only. `writing` is the index of the
    handwritten sample. `start` is the digit's first position, as shares of the available room; `angle` (radians, 0 is
    right, a quarter turn is down) and `speed` (sides of the picture per second) are those before the first bounce.
    `hue` is 0 to 1. `take` is the number of the recording in a folder of speech, None for synthesis.
    """

    digit: int
    spoken: int
    writing: int
    start: tuple[float, float]
    angle: float
    speed: float
    texture: str
    hue: float
    speaker: str
    take: int | None
    gain_db: float
    snr_db: float


@dataclass(frozen=True)
class Voices:
    """The available voices: the speakers, and for (digit, speaker) the takes to choose from (empty: synthesised)."""

    speakers: tuple[str, ...]
    takes: dict[tuple[int, str], tuple[int, ...]]


def clip_generator(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the random generator for clip `index` of a split."""
    return np.random.default_rng((seed, index, *{"train": (), "test": (1,), "validation": (2,)}[split]))


def draw_factors(
    generator: np.random.Generator,
    settings: DigitsSettings,
    writings: Callable[[int], NDArray[np.int64]],
    voices: Voices,
) -> Factors:
    """Draw one clip's factors. `writings` returns the indices of a digit's handwritten samples."""
    digit = int(generator.integers(10))
    # Always drawn, so that the other factors of a clip do not depend on `mismatched`.
    other = (digit + int(generator.integers(1, 10))) % 10
    spoken = other if generator.random() < settings.mismatched else digit
    speaker = voices.speakers[int(generator.integers(len(voices.speakers)))]
    takes = voices.takes.get((spoken, speaker), ())
    return Factors(
        digit=digit,
        spoken=spoken,
        writing=int(generator.choice(writings(digit))),
        start=(float(generator.random()), float(generator.random())),
        angle=float(generator.uniform(0, 2 * math.pi)),
        speed=float(generator.uniform(SLOWEST, FASTEST)),
        texture=TEXTURES[int(generator.integers(len(TEXTURES)))],
        hue=float(generator.random()),
        speaker=speaker,
        take=int(generator.choice(takes)) if takes else None,
        gain_db=float(generator.uniform(-settings.gain_db, settings.gain_db)),
        snr_db=float(generator.uniform(*settings.snr_db)),
    )


def _third(value: float, low: float, high: float, names: tuple[str, str, str]) -> str:
    if high <= low:
        return names[1]
    return names[min(2, int(3 * (value - low) / (high - low)))]


def labels_of(factors: Factors, settings: DigitsSettings) -> dict[str, str]:
    """Return the columns `LABELS` of the manifest: the digit shown, and every other factor in a few bins.

    There are four directions, two speeds (split at the middle of their range), six hues, and three bins each of
    loudness and noise (thirds of their range). A background of strength 0 is called `none`.
    """
    direction = DIRECTIONS[round(factors.angle / (math.pi / 2)) % 4]
    pace = "slow" if factors.speed < (SLOWEST + FASTEST) / 2 else "fast"
    background = f"{factors.texture}-{HUES[round(factors.hue * 6) % 6]}" if settings.nuisance > 0 else "none"
    gain = settings.gain_db
    return {
        "label": str(factors.digit),
        "label_writing": str(factors.writing),
        "label_motion": f"{direction}-{pace}",
        "label_background": background,
        "label_speaker": factors.speaker,
        "label_loudness": _third(factors.gain_db, -gain, gain, ("quiet", "medium", "loud")),
        "label_noise": _third(factors.snr_db, *settings.snr_db, ("noisy", "medium", "clean")),
        "label_spoken": str(factors.spoken),
    }
