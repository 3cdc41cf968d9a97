"""The views of the modality `audio`: log-mel spectrograms of the sound that belongs to a view of the pictures."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from shards.media.decode import decode_sound
from xdc_core.modalities.audio import AudioSettings
from xdc_core.modalities.kaldi import WINDOW_S, kaldi_log_mel, kaldi_recipe
from xdc_core.modalities.logmel import Align, LogMel, align_frames, log_mel, mask_stretch, seen_frames, span_frames
from xdc_core.modalities.modality import Row, Where, view_start


def recipe(settings: AudioSettings) -> dict[str, Any]:
    """Return the constants of the log-mel."""
    if settings.filters == "kaldi":
        return {"window_s": WINDOW_S, "hop_s": LogMel().hop_s, "filters": "compute-fbank-feats of Kaldi, Hann window"}
    return {
        "window_s": LogMel().window_s,
        "hop_s": LogMel().hop_s,
        "floor": LogMel().floor,
        "logarithm": "1 + ln(energy / floor) above floor, energy / floor below",
        "mel": "1127 ln(1 + f / 700), 0 Hz to sample_rate / 2",
    }


def view(flac: bytes, row: Row, settings: AudioSettings, frames: int, where: Where) -> Tensor:
    """Return a view, float32 [1, settings.frames, mels]: the log-mel of the sound that belongs to `frames` pictures.

    These are placed as in a video view. In training, consecutive log-mel frames and mel bands are masked according to
    the settings.
    """
    vmz = settings.filters == "vmz"
    layout = (LogMel if vmz else kaldi_recipe)(sample_rate=row["sample_rate"], mels=settings.mels)
    total = layout.frames(row["samples"])
    wanted = min(frames, row["frames"])
    start_s = view_start(row["frames"], wanted, where) / row["fps"]
    span = span_frames(start_s, start_s + wanted / row["fps"], total)
    first, last = seen_frames(total, settings.frames, settings.align, span)
    # A view lasts about a second, the sound may last minutes: only the view is decoded.
    sound = decode_sound(flac, *layout.samples(first, last, row["samples"]))
    # The decoded part begins with the view, so "centre" becomes "start".
    align: Align = "span" if settings.align == "span" else "start"
    made = (log_mel if vmz else kaldi_log_mel)(torch.from_numpy(sound), layout)
    spectrogram = align_frames(made, settings.frames, align)
    if isinstance(where, np.random.Generator):
        for longest, axis in ((settings.mask_frames, 0), (settings.mask_mels, 1)):
            if longest:
                spectrogram = mask_stretch(spectrogram, longest, axis, where)
    return spectrogram[None]


def normalise(batch: Tensor, settings: AudioSettings) -> Tensor:
    """Return log-mels, float32 [B, 1, frames, mels], normalised by the mean and deviation of the settings.

    By default they are unchanged (method: no mean and deviation of a data set). Frames after the sound's end are 0
    before they are normalised, as in AST's preprocessing.
    """
    if (settings.mean, settings.std) == (0.0, 1.0):
        return batch
    return (batch - settings.mean) / settings.std
