"""The views of the modality `flicker`; imported when the first one is made."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from shards.media.decode import decode_frames
from xdc_core.modalities.modality import Row, Where, view_start
from xdc_flicker.modality import FlickerSettings


def view(mp4: bytes, row: Row, settings: FlickerSettings, frames: int, where: Where) -> Tensor:
    """Return float32 [1, frames, size, size]: each frame less the one before it, 0 for the first."""
    wanted = min(frames, row["frames"])
    pictures = decode_frames(mp4, view_start(row["frames"], wanted, where), wanted)
    grey = torch.from_numpy(pictures).float().mean(dim=3)[None] / 255
    small = interpolate(grey, size=(settings.size, settings.size), mode="bilinear", antialias=True)[0]
    return pad(small.diff(dim=0), (0, 0, 0, 0, 1, frames - wanted))[None]


def normalise(batch: Tensor, settings: FlickerSettings) -> Tensor:
    """Return the differences, float32 [B, 1, frames, size, size], scaled to the order of 1."""
    return batch * settings.gain
