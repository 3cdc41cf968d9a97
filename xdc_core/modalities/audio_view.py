"""The views of the modality `audio`: log-mel spectrograms of the sound that goes with a view of the pictures."""

import numpy as np
import torch
from torch import Tensor

from shards.media.decode import decode_sound
from xdc_core.modalities.audio import AudioSettings
from xdc_core.modalities.logmel import Align, LogMel, align_frames, log_mel, mask_stretch, seen_frames, span_frames
from xdc_core.modalities.modality import Row, Where, view_start


def view(flac: bytes, row: Row, settings: AudioSettings, frames: int, where: Where) -> Tensor:
    """Return a view, float32 [1, settings.frames, mels]: the log-mel of the sound that goes with `frames` pictures.

    They lie as those of a video view do. In training, stretches of log-mel frames and of mel bands are masked where
    the settings ask for it.
    """
    recipe = LogMel(sample_rate=row["sample_rate"], mels=settings.mels)
    total = recipe.frames(row["samples"])
    wanted = min(frames, row["frames"])
    start_s = view_start(row["frames"], wanted, where) / row["fps"]
    span = span_frames(start_s, start_s + wanted / row["fps"], total)
    first, last = seen_frames(total, settings.frames, settings.align, span)
    # A view is a second or so of a sound that may last for minutes: only that is decoded.
    sound = decode_sound(flac, *recipe.samples(first, last, row["samples"]))
    # What is seen begins where the view does: "centre" has become "start".
    align: Align = "span" if settings.align == "span" else "start"
    spectrogram = align_frames(log_mel(torch.from_numpy(sound), recipe), settings.frames, align)
    if isinstance(where, np.random.Generator):
        for longest, axis in ((settings.mask_frames, 0), (settings.mask_mels, 1)):
            if longest:
                spectrogram = mask_stretch(spectrogram, longest, axis, where)
    return spectrogram[None]


def normalise(batch: Tensor, settings: AudioSettings) -> Tensor:
    """Return log-mels as they are (method: no mean and deviation of a data set)."""
    return batch
