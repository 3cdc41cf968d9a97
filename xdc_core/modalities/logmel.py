"""Sound as the audio encoder sees it: a log-mel spectrogram, and its 100 frames that go with a video clip.

The recipe is that of facebookresearch/VMZ, the code base of two of the paper's authors (its LogMels operator).
Verified there: 16 kHz; symmetric Hann window of 16 ms, step 10 ms, no padding at the edges; FFT of the next power
of two; power spectrum, not magnitude; mel = 1127 ln(1 + f/700) from 0 Hz to half the sample rate; the sides of a
filter's triangle at least one FFT bin wide; each filter normalised to sum 1; the natural logarithm with the gain
and the foot that `LogMel.floor` stands for; no mean or standard deviation of a data set.

Not followed, as slips of that operator: it spaces the bins by 62.0 instead of 62.5 Hz, adds the power at half the
sample rate to that at 0 Hz, leaves the last bin out of narrow filters, and drops a last frame that ends exactly
with the sound.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torchaudio.functional import spectrogram as windowed_power

Align = Literal["span", "start", "centre"]


@dataclass(frozen=True)
class LogMel:
    """How sound becomes a spectrogram.

    sample_rate: Hz. window_s, hop_s: seconds. mels: number of bands.
    floor: the energy, in units of the power spectrum of sound in [-1, 1], below which the logarithm goes on as a
    straight line to 0. With x = energy / floor, a value is 1 + ln(x) where x > 1, and x elsewhere: smooth, never
    negative, 0 for digital silence. The default is VMZ's: ln(1080674186.35 * energy), and the line below e. It
    lies 122 dB under the peak of a full-scale sine and just under the rounding noise of 16-bit sound.
    """

    sample_rate: int = 16000
    window_s: float = 0.016
    hop_s: float = 0.010
    mels: int = 40
    floor: float = math.e / 1080674186.3482928

    @property
    def window(self) -> int:
        """Samples of a frame."""
        return round(self.window_s * self.sample_rate)

    @property
    def hop(self) -> int:
        """Samples from the start of a frame to the start of the next."""
        return round(self.hop_s * self.sample_rate)

    @property
    def fft(self) -> int:
        """Points of the FFT: the smallest power of two that holds a frame."""
        return 1 << (self.window - 1).bit_length()

    def frames(self, samples: int) -> int:
        """Frames of a sound of so many samples."""
        return 1 + max(0, samples - self.window) // self.hop

    def samples(self, first: int, last: int, samples: int) -> tuple[int, int]:
        """The first sample that frames first .. last - 1 cover, and how many they cover of a sound of `samples`."""
        begin = first * self.hop
        return begin, min((last - 1) * self.hop + self.window, samples) - begin


DEFAULT = LogMel()


@lru_cache(maxsize=16)
def filter_bank(settings: LogMel = DEFAULT) -> Tensor:
    """Triangular mel filters, float32 [fft / 2 + 1, mels], each column with sum 1. Cached: do not write to it.

    The corners lie at equal steps of mel from 0 Hz to half the sample rate. A side narrower than one bin is
    widened to one bin, as in VMZ, so every filter holds at least one bin however fine the bands are; the lowest
    filter therefore reaches down to 0 Hz.
    """
    top = 1127 * math.log1p(settings.sample_rate / 2 / 700)
    mel = torch.linspace(0, top, settings.mels + 2, dtype=torch.float64)
    corners = 700 * torch.expm1(mel / 1127) * settings.fft / settings.sample_rate
    low, mid, high = corners[:-2], corners[1:-1], corners[2:]
    bins = torch.arange(settings.fft // 2 + 1, dtype=torch.float64)[:, None]
    rise = (mid - bins) / (mid - low).clamp(min=1)
    fall = (bins - mid) / (high - mid).clamp(min=1)
    weights = (1 - torch.where(bins < mid, rise, fall)).clamp(min=0)
    return (weights / weights.sum(dim=0)).float()


@lru_cache(maxsize=16)
def hann_window(samples: int, device: torch.device) -> Tensor:
    """Symmetric, float32 [samples]. Cached: do not write to it."""
    return torch.hann_window(samples, periodic=False, device=device)


def log_mel(waveform: Tensor, settings: LogMel = DEFAULT) -> Tensor:
    """The log-mel spectrogram of mono sound: float32 [..., samples] -> float32 [..., frames, mels].

    waveform is finite, in [-1, 1], at settings.sample_rate. Frame i covers the samples from i * hop up to
    i * hop + window, so frames = 1 + (samples - window) // hop: 99 for one second by default (window 256, hop 160
    samples). Sound shorter than one window is filled up with zeros to one frame. Values are >= 0; 0 is silence.

    Raises ValueError for a waveform without samples or of another dtype than float32.
    """
    if waveform.dtype != torch.float32 or waveform.ndim == 0 or waveform.numel() == 0:
        raise ValueError(
            f"log_mel: the waveform is {waveform.dtype} {list(waveform.shape)}; it must be float32 "
            "[..., samples] in [-1, 1] with at least one sample"
        )
    # torchaudio puts a window into the middle of its FFT: without these zeros the outermost frames would be lost.
    space = settings.fft - settings.window
    missing = max(0, settings.window - waveform.shape[-1])
    power = windowed_power(
        pad(waveform, (space // 2, space - space // 2 + missing)),
        pad=0,
        window=hann_window(settings.window, waveform.device),
        n_fft=settings.fft,
        hop_length=settings.hop,
        win_length=settings.window,
        power=2.0,
        normalized=False,
        center=False,
    )
    energy = power.mT @ filter_bank(settings).to(waveform.device)
    x = energy / settings.floor
    return x.clamp(max=1) + x.clamp(min=1).log()


def span_frames(start_s: float, end_s: float, frames: int, settings: LogMel = DEFAULT) -> tuple[int, int]:
    """Which frames [first, last) of a spectrogram of `frames` frames go with the time from start_s to end_s.

    first = floor(start_s / hop_s), last = ceil(end_s / hop_s), both moved into the spectrogram; at least one frame.
    Raises ValueError unless 0 <= start_s < end_s and frames >= 1.
    """
    if not 0 <= start_s < end_s or frames < 1:
        raise ValueError(
            f"span_frames: no span from {start_s} s to {end_s} s in {frames} frames; "
            "need 0 <= start_s < end_s and at least one frame"
        )
    # Rounded first, because 0.29 / 0.01 is 28.999999999999996.
    first = min(math.floor(round(start_s / settings.hop_s, 6)), frames - 1)
    last = math.ceil(round(end_s / settings.hop_s, 6))
    return first, max(first + 1, min(last, frames))


def seen_frames(total: int, frames: int, mode: Align, span: tuple[int, int]) -> tuple[int, int]:
    """Which frames [first, last) of `total`, at least one, `align_frames` reads for a span."""
    if mode == "span":
        return span
    begin = span[0] if mode == "start" else max(0, sum(span) // 2 - frames // 2)
    return begin, min(begin + frames, total)


def align_frames(
    spectrogram: Tensor, frames: int = 100, mode: Align = "span", span: tuple[int, int] | None = None
) -> Tensor:
    """The frames that the audio encoder sees: [..., F, mels] -> [..., frames, mels], floating dtype kept.

    span: the frames [first, last) that go with the video clip; None: all, (0, F).

    - "span": the span stretched or shrunk to `frames`. With n = last - first, output frame j is read at
      first + (j + 0.5) * n / frames - 0.5, linearly between two frames, never beyond the span's first and last.
      VMZ's default; where it shrinks (n > frames) VMZ takes the nearest frame instead.
    - "start": output frame j is frame first + j.
    - "centre": output frame j is frame c + j, with c = max(0, (first + last) // 2 - frames // 2).

    "start" and "centre" may leave the span; from frame F on they give 0, the value of digital silence.
    All three are VMZ's. Which one XDC used is not known: an unverified option.

    Raises ValueError for a span that is empty or not within [0, F), for frames < 1, or for another mode.
    """
    total = spectrogram.shape[-2]
    first, last = (0, total) if span is None else span
    if not 0 <= first < last <= total or frames < 1:
        raise ValueError(
            f"align_frames: cannot take {frames} frames for the span [{first}, {last}) of a spectrogram of "
            f"{total} frames; need 0 <= first < last <= {total} and frames >= 1"
        )
    if mode == "span":
        position = (torch.arange(frames, dtype=torch.float64) + 0.5) * ((last - first) / frames) - 0.5
        position = position.clamp(0, last - first - 1)
        before = position.floor().long()
        after = (before + 1).clamp(max=last - first - 1)
        weight = (position - before)[:, None].to(spectrogram)
        rows = spectrogram[..., first:last, :]
        return torch.lerp(rows[..., before, :], rows[..., after, :], weight)
    if mode not in ("start", "centre"):
        raise ValueError(f"align_frames: mode {mode!r} is not one of 'span', 'start', 'centre'")
    begin, end = seen_frames(total, frames, mode, (first, last))
    rows = spectrogram[..., begin:end, :]
    return pad(rows, (0, 0, 0, frames - rows.shape[-2]))


def mask_stretch(spectrogram: Tensor, longest: int, axis: int, rng: np.random.Generator) -> Tensor:
    """A copy of [frames, mels] in which a stretch of at most `longest` frames (axis 0) or bands (axis 1) is silent.

    As in SpecAugment (Park et al., 2019): the length is drawn from 0 .. longest, then the place among all that fit,
    both uniformly; here a masked value is 0, digital silence. An unverified option: XDC is not known to mask.

    Raises ValueError if the spectrogram is shorter than `longest`.
    """
    size = spectrogram.shape[axis]
    if not 0 <= longest <= size:
        raise ValueError(f"mask_stretch: a stretch of {longest} does not fit into {size} along axis {axis}")
    length = int(rng.integers(longest + 1))
    first = int(rng.integers(size - length + 1))
    masked = spectrogram.clone()
    masked.narrow(axis, first, length).zero_()
    return masked
