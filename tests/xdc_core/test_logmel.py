import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from xdc_core.modalities.logmel import LogMel, filter_bank, log_mel

SECOND = np.arange(16000) / 16000


def tone() -> np.ndarray:
    """One second of 1 kHz at half scale."""
    return 0.5 * np.sin(2 * np.pi * 1000 * SECOND)


def chirp() -> np.ndarray:
    """From 100 Hz to 7900 Hz in one second."""
    return 0.25 * np.sin(2 * np.pi * (100 * SECOND + 3900 * SECOND**2))


def noise() -> np.ndarray:
    """White, from a linear congruential generator, so that it is the same everywhere."""
    state, samples = 1, []
    for _ in range(16000):
        state = (1103515245 * state + 12345) % 2**31
        samples.append(0.2 * (state / 2**31 - 0.5))
    return np.array(samples)


def slow_log_mel(
    samples: np.ndarray, rate: int = 16000, window: int = 256, hop: int = 160, fft: int = 256
) -> np.ndarray:
    """The definition in float64, one frame, one bin and one filter after another."""
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / (window - 1)) for n in range(window)]
    mel_top = 1127 * math.log(1 + rate / 2 / 700)
    corners = [700 * (math.exp(mel_top * i / 41 / 1127) - 1) * fft / rate for i in range(42)]
    filters = []
    for low, mid, high in zip(corners, corners[1:], corners[2:], strict=False):
        left, right = max(1.0, mid - low), max(1.0, high - mid)
        weights = {b: 1 - ((mid - b) / left if b < mid else (b - mid) / right) for b in range(fft // 2 + 1)}
        weights = {b: weight for b, weight in weights.items() if weight > 0}
        filters.append({b: weight / sum(weights.values()) for b, weight in weights.items()})
    waves = np.exp(-2j * np.pi * np.outer(np.arange(fft // 2 + 1), np.arange(window)) / fft)
    rows = []
    for start in range(0, len(samples) - window + 1, hop):
        power = np.abs(waves @ (samples[start : start + window] * hann)) ** 2
        energies = [1080674186.3482928 * sum(w * power[b] for b, w in weights.items()) for weights in filters]
        rows.append([math.log(e) if e > math.e else e / math.e for e in energies])
    return np.array(rows)


def ours(samples: np.ndarray) -> Tensor:
    return log_mel(torch.from_numpy(samples).float())


# Bands 100 dB below the loudest one hold float32 rounding, which the definition in float64 has not.
@pytest.mark.parametrize(("sound", "within"), [(tone, 0.03), (chirp, 0.03), (noise, 2e-4)])
def test_values_are_those_of_the_slow_definition(sound: Callable[[], np.ndarray], within: float) -> None:
    expected = slow_log_mel(sound())
    made = ours(sound()).numpy()
    assert made.shape == expected.shape == (99, 40)
    np.testing.assert_allclose(made, expected, rtol=0, atol=within)


GOLDEN = [
    (tone, [(0, 0), (0, 14), (50, 13), (98, 39)], [3.9483, 26.7325, 27.016, 0.0244]),
    (chirp, [(0, 3), (49, 28), (98, 39)], [25.9678, 12.4778, 23.6801]),
    (noise, [(0, 0), (49, 20), (98, 39)], [17.1889, 18.6739, 19.8071]),
]


@pytest.mark.parametrize(("sound", "places", "values"), GOLDEN)
def test_values_are_the_golden_ones(
    sound: Callable[[], np.ndarray], places: list[tuple[int, int]], values: list[float]
) -> None:
    made = ours(sound())
    assert [made[place].item() for place in places] == pytest.approx(values, abs=0.02)


def test_a_tone_is_loudest_in_its_own_band() -> None:
    for hertz in (300, 1000, 3000, 7000):
        mel = 1127 * math.log(1 + hertz / 700)
        band = round(mel / (1127 * math.log(1 + 8000 / 700)) * 41) - 1
        row = ours(0.5 * np.sin(2 * np.pi * hertz * SECOND))[50]
        assert abs(int(row.argmax()) - band) <= 1


def test_ten_times_the_amplitude_adds_ln_100() -> None:
    quiet, loud = ours(0.05 * noise() / 0.2), ours(0.5 * noise() / 0.2)
    torch.testing.assert_close(loud - quiet, torch.full_like(loud, math.log(100)), atol=1e-3, rtol=0)


def test_silence_is_zero_and_near_silence_is_smooth() -> None:
    assert not ours(np.zeros(16000)).any()
    tiny = np.geomspace(1e-9, 1e-3, 200)
    loudest = torch.stack([ours(a * noise()).amax() for a in tiny])
    assert (loudest > 0).all()
    assert (loudest.diff() > 0).all()
    assert loudest.diff().max() < 2 * math.log(tiny[1] / tiny[0]) + 1e-3


@pytest.mark.parametrize("sound", [np.ones(1000), -np.ones(1000), np.eye(1, 1000)[0], np.full(1000, 1e-30)])
def test_odd_sounds_give_finite_values_that_are_not_negative(sound: np.ndarray) -> None:
    made = ours(sound)
    assert torch.isfinite(made).all()
    assert (made >= 0).all()


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (255, 1), (256, 1), (415, 1), (416, 2), (16000, 99)])
def test_frames_are_the_whole_windows_and_at_least_one(samples: int, frames: int) -> None:
    assert log_mel(torch.ones(samples)).shape == (frames, 40)


def test_a_click_is_in_the_frames_that_cover_it_and_in_no_other() -> None:
    sound = np.zeros(16000)
    sound[1700] = 1.0
    heard = ours(sound).sum(dim=1).nonzero().flatten().tolist()
    assert heard == [i for i in range(99) if 160 * i < 1700 < 160 * i + 255]


def test_a_batch_gives_what_each_of_its_sounds_gives() -> None:
    batch = torch.from_numpy(np.stack([tone(), chirp(), noise()])).float()
    made = log_mel(batch)
    assert made.shape == (3, 99, 40)
    for row, sound in zip(made, batch, strict=True):
        torch.testing.assert_close(row, log_mel(sound), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "waveform", [torch.zeros(0), torch.zeros(2, 0), torch.tensor(1.0), torch.zeros(400, dtype=torch.int16)]
)
def test_a_waveform_without_samples_or_of_another_type_is_refused(waveform: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be float32 \[..., samples\]"):
        log_mel(waveform)


@pytest.mark.parametrize("mels", [1, 20, 40, 64, 128, 300])
def test_every_filter_has_weight_and_sums_to_one_however_fine_the_bands(mels: int) -> None:
    bank = filter_bank(LogMel(mels=mels))
    assert bank.shape == (129, mels)
    assert (bank >= 0).all()
    torch.testing.assert_close(bank.sum(dim=0), torch.ones(mels))


def test_no_two_of_the_40_bands_are_the_same() -> None:
    bank = filter_bank()
    assert len({tuple(column) for column in bank.T.tolist()}) == 40
    centres = (bank * torch.arange(129)[:, None]).sum(dim=0)
    assert (centres.diff() > 0.5).all()


def test_wide_filters_are_those_of_torchaudio_after_normalising() -> None:
    theirs = melscale_fbanks(129, 0, 8000, 40, 16000, norm=None, mel_scale="htk")
    theirs = theirs / theirs.sum(dim=0)
    wide = slice(14, 40)  # from here both sides are wider than a bin
    torch.testing.assert_close(filter_bank()[:, wide], theirs[:, wide], atol=1e-3, rtol=0)


def test_the_filter_bank_is_made_once() -> None:
    assert filter_bank(LogMel()) is filter_bank(LogMel())
    assert filter_bank(LogMel(mels=20)) is not filter_bank(LogMel())


def test_windows_that_are_no_power_of_two_lose_no_frame() -> None:
    settings = LogMel(sample_rate=22050)
    assert (settings.window, settings.hop, settings.fft) == (353, 220, 512)
    sound = noise()[: 353 + 3 * 220]
    made = log_mel(torch.from_numpy(sound).float(), settings).numpy()
    np.testing.assert_allclose(made, slow_log_mel(sound, 22050, 353, 220, 512), atol=2e-3)
    assert made.shape == (4, 40)
