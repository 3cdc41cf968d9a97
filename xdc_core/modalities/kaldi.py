"""The log-mel of Kaldi's recipe (its program compute-fbank-feats), which AST was trained with.

A frame of 25 ms every 10 ms, none padded; its mean is subtracted, then a pre-emphasis of 0.97; Hann window; power
spectrum of the next power of two; triangular filters at equal steps of mel = 1127 ln(1 + f/700) from 20 Hz to half the
sample rate; the natural logarithm, of at least 1.19e-7. No dither: the same sound gives the same values.
"""

from torch import Tensor
from torch.nn.functional import pad
from torchaudio.compliance import kaldi

from xdc_core.modalities.logmel import LogMel

WINDOW_S = 0.025


def kaldi_recipe(sample_rate: int, mels: int) -> LogMel:
    """Return the settings of a spectrogram by Kaldi's recipe: Hz, and the number of bands. `floor` is not used."""
    return LogMel(sample_rate=sample_rate, window_s=WINDOW_S, mels=mels)


def kaldi_log_mel(waveform: Tensor, recipe: LogMel) -> Tensor:
    """Return the log-mel of mono sound: float32 [samples] in [-1, 1] -> float32 [frames, mels].

    Sound shorter than one window is padded with zeros to one frame. Values are those of transformers'
    ASTFeatureExtractor before it normalises them.
    """
    sound = pad(waveform, (0, max(0, recipe.window - len(waveform))))
    # Half a sample more, because torchaudio rounds down.
    window_ms, hop_ms = ((samples + 0.5) * 1000 / recipe.sample_rate for samples in (recipe.window, recipe.hop))
    filters: Tensor = kaldi.fbank(
        sound[None],
        sample_frequency=recipe.sample_rate,
        frame_length=window_ms,
        frame_shift=hop_ms,
        num_mel_bins=recipe.mels,
        window_type="hanning",
        dither=0.0,
    )
    return filters
