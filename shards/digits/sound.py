"""The sound of a clip: a voice at a random time and level, with coloured noise."""

import numpy as np
from numpy.typing import NDArray

VOICE_LEVEL = 0.06  # Root mean square of a voice at a gain of 0 dB, for full scale 1, so that peaks do not clip.


def _loudest_part(voice: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    energy = np.concatenate([[0.0], np.cumsum(voice**2)])
    start = int(np.argmax(energy[samples:] - energy[:-samples]))
    return voice[start : start + samples]


def _coloured_noise(samples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return noise of unit level whose power falls as 1 / frequency ** c, c between 0 (white) and 2 (brown)."""
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    bins = np.arange(len(spectrum))
    # Constant below 1 / 200 of the band (40 Hz): otherwise brown noise would be only rumble.
    spectrum *= np.maximum(bins, len(bins) / 200) ** (-generator.uniform(0, 2) / 2)
    noise = np.fft.irfft(spectrum, samples)
    return noise / np.sqrt(np.mean(noise**2))


def mix_sound(
    voice: NDArray[np.float64],
    samples: int,
    gain_db: float,
    snr_db: float,
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    """Put a voice at a random place of a clip: float32 [samples], within -1 to 1.

    The root mean square of the voice becomes `VOICE_LEVEL` times the gain; the noise is `snr_db` below that. If the
    voice is longer than the clip, its loudest part is used.
    """
    if len(voice) > samples:
        voice = _loudest_part(voice, samples)
    level = VOICE_LEVEL * 10 ** (gain_db / 20)
    sound = level * 10 ** (-snr_db / 20) * _coloured_noise(samples, generator)
    start = int(generator.integers(samples - len(voice) + 1))
    sound[start : start + len(voice)] += voice * (level / np.sqrt(np.mean(voice**2)))
    return np.clip(sound, -1, 1).astype(np.float32)
