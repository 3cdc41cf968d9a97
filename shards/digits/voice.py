"""Synthesised voices that say the ten English digits: a source and a time-varying filter.

A digit is a sequence of segments, each with three formants, voicing and friction. A speaker sets the pitch, the scale
of the formants (the length of the vocal tract), the rate and the breathiness. The movement of the formants determines
the digit and is the same for all speakers. Vowel formants are near the means for men in Peterson and Barney (1952);
consonants are approximate. The cascade of resonators follows Klatt (1980), computed per frame over the spectrum instead
of per sample.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.digits.settings import SAMPLE_RATE

SOURCE = "synthesised voices (source and filter, 8 speakers)"
HOP = 160  # 10 ms between frames; windows are twice as long.
SPECTRUM = 1024  # Points of a frame's spectrum, enough for the decay of the resonators.


@dataclass(frozen=True)
class Speaker:
    """A speaker: `pitch` in Hz, factors on formants and rate, `breath` from 0 (clear) to 1 (whispered)."""

    pitch: float
    formants: float
    rate: float
    breath: float


SPEAKERS = {
    "bass": Speaker(85, 0.90, 0.90, 0.05),
    "baritone": Speaker(110, 0.97, 1.10, 0.12),
    "tenor": Speaker(140, 1.02, 1.25, 0.05),
    "hoarse": Speaker(125, 0.94, 0.85, 0.60),
    "alto": Speaker(185, 1.10, 1.00, 0.15),
    "soprano": Speaker(230, 1.16, 1.15, 0.08),
    "breathy": Speaker(205, 1.13, 0.90, 0.50),
    "child": Speaker(290, 1.24, 0.95, 0.10),
}


@dataclass(frozen=True)
class Segment:
    """A phoneme: formants in Hz; amplitudes of voicing and friction; the friction's centre and width in Hz."""

    formants: tuple[float, float, float]
    voicing: float
    seconds: float
    friction: float = 0.0
    centre: float = 5000.0
    width: float = 2000.0


_SEGMENTS = {
    "iy": Segment((270, 2290, 3010), 1.0, 0.16),
    "ih": Segment((390, 1990, 2550), 1.0, 0.10),
    "eh": Segment((530, 1840, 2480), 1.0, 0.12),
    "ah": Segment((640, 1190, 2390), 1.0, 0.13),
    "aa": Segment((730, 1090, 2440), 1.0, 0.15),
    "ao": Segment((570, 840, 2410), 1.0, 0.17),
    "ow": Segment((450, 880, 2350), 1.0, 0.13),
    "uw": Segment((300, 870, 2240), 1.0, 0.20),
    "r": Segment((400, 1200, 1600), 0.7, 0.09),
    "w": Segment((300, 650, 2200), 0.6, 0.09),
    "n": Segment((280, 1600, 2550), 0.4, 0.11),
    "v": Segment((300, 1100, 2300), 0.35, 0.08, 0.15, 4500, 3000),
    "z": Segment((300, 1700, 2600), 0.3, 0.10, 0.45, 5500, 1200),
    "s": Segment((350, 1750, 2600), 0.0, 0.13, 0.70, 5800, 1200),
    "f": Segment((350, 1100, 2300), 0.0, 0.11, 0.25, 4500, 3500),
    "th": Segment((350, 1400, 2600), 0.0, 0.10, 0.20, 6000, 2500),
    "pause": Segment((400, 1800, 2600), 0.0, 0.05),
    "t": Segment((350, 1800, 2700), 0.0, 0.03, 0.80, 4200, 2000),
    "k": Segment((350, 1900, 2500), 0.0, 0.03, 0.60, 2200, 800),
}
WORDS = {
    0: ("z", "ih", "r", "ow", "uw"),
    1: ("w", "ah", "n"),
    2: ("t", "uw", "uw"),
    3: ("th", "r", "iy", "iy"),
    4: ("f", "ao", "r"),
    5: ("f", "aa", "ih", "v"),
    6: ("s", "ih", "pause", "k", "s"),
    7: ("s", "eh", "v", "ah", "n"),
    8: ("eh", "ih", "iy", "pause", "t"),
    9: ("n", "aa", "ih", "n"),
}


def _glide(values: NDArray[np.float64], frames: int) -> NDArray[np.float64]:
    """Smooth [T, C] over time by a window of `frames`, because the mouth moves continuously."""
    window = np.hanning(frames + 2)[1:-1]
    padded = np.pad(values, ((frames // 2, frames - 1 - frames // 2), (0, 0)), mode="edge")
    view = np.lib.stride_tricks.sliding_window_view(padded, frames, axis=0)
    glided: NDArray[np.float64] = view @ (window / window.sum())
    return glided


def _resonance(formants: NDArray[np.float64], frequencies: NDArray[Any]) -> NDArray[np.complex128]:
    """Return the response [T, F] of the vocal tract: resonators in cascade at `formants` [T, C], in Hz."""
    delay = np.exp(-2j * np.pi * frequencies / SAMPLE_RATE)[None, None]
    bandwidths = 50 + formants * 0.04
    radius = np.exp(-np.pi * bandwidths / SAMPLE_RATE)
    b = (2 * radius * np.cos(2 * np.pi * formants / SAMPLE_RATE))[:, :, None]
    c = -(radius**2)[:, :, None]
    response: NDArray[np.complex128] = ((1 - b - c) / (1 - b * delay - c * delay**2)).prod(axis=1)
    return response


def _frames_of(sound: NDArray[np.float64], count: int) -> NDArray[np.complex128]:
    """Return the spectra [count, F] of overlapping Hann windows that sum to one."""
    view = np.lib.stride_tricks.sliding_window_view(sound, 2 * HOP)[::HOP][:count]
    window = np.hanning(2 * HOP + 1)[:-1]
    spectra: NDArray[np.complex128] = np.fft.rfft(view * window, SPECTRUM)
    return spectra


def synthesise(digit: int, speaker: str, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return one utterance of a digit: float64 [N], 16 kHz, at an arbitrary level; 0.3 to 0.9 s long.

    Pitch and its slope, rate, the length of every segment and every formant vary a little between utterances.
    """
    person = SPEAKERS[speaker]
    segments = [_SEGMENTS[name] for name in WORDS[digit]]
    rate = person.rate * generator.uniform(0.9, 1.1)
    lengths = [segment.seconds / rate * generator.uniform(0.8, 1.25) for segment in segments]
    counts = np.maximum(2, np.rint(np.array(lengths) * SAMPLE_RATE / HOP)).astype(int)
    targets = np.array([segment.formants for segment in segments])
    targets = targets * person.formants * generator.normal(1, 0.04, targets.shape)
    formants = _glide(np.repeat(targets, counts, axis=0), 7)
    sources = np.array([(segment.voicing, segment.friction) for segment in segments])
    shape = np.array([(segment.centre, segment.width) for segment in segments])
    levels = _glide(np.repeat(sources, counts, axis=0), 3)
    bands = np.repeat(shape, counts, axis=0)
    count = len(formants)
    levels *= np.minimum(1, (count - np.arange(count)) / 6)[:, None]  # The voice fades.

    samples = (count + 1) * HOP
    slope = generator.uniform(-0.25, 0.05)
    pitch = person.pitch * generator.normal(1, 0.05) * (1 + slope * np.linspace(0, 1, samples))
    phase = np.cumsum(pitch / SAMPLE_RATE) + generator.random()
    pulses = np.diff(np.floor(phase), prepend=np.floor(phase[0])) * np.sqrt(SAMPLE_RATE / pitch)
    breath = generator.standard_normal(samples)
    source = np.sqrt(1 - person.breath) * pulses + 0.5 * np.sqrt(person.breath) * breath
    friction = generator.standard_normal(samples)

    frequencies = np.fft.rfftfreq(SPECTRUM, 1 / SAMPLE_RATE)
    higher = np.array([3500.0, 4500.0]) * person.formants
    tract = _resonance(np.concatenate([formants, np.tile(higher, (count, 1))], axis=1), frequencies)
    tract /= 1 + 1j * frequencies / 300  # The glottal source falls by 12 dB per octave; radiation at the lips adds 6.
    band = np.exp(-0.5 * ((frequencies[None] - bands[:, :1]) / bands[:, 1:]) ** 2)
    spectra = levels[:, :1] * tract * _frames_of(source, count)
    spectra += levels[:, 1:] * band * _frames_of(friction, count)
    utterance = np.zeros(samples + SPECTRUM)
    for index, frame in enumerate(np.fft.irfft(spectra, SPECTRUM)):
        utterance[index * HOP : index * HOP + SPECTRUM] += frame
    return utterance[:samples]
