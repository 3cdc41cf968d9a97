"""The views of the modality `video`: consecutive frames of a clip, cut as in VMZ."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from shards.media.decode import StoredFrames, decode_frames
from xdc_core.modalities.modality import Row, Where, view_start
from xdc_core.modalities.video import VideoSettings


def view(mp4: bytes | StoredFrames, row: Row, settings: VideoSettings, frames: int, where: Where) -> Tensor:
    """Return a view, uint8 [3, frames, crop, crop]. The last frame of a shorter clip is repeated.

    Short edge, crop position and flip as in VMZ: drawn in training; the first short edge and the centre in extraction.
    """
    wanted = min(frames, row["frames"])
    pictures = decode_frames(mp4, view_start(row["frames"], wanted, where), wanted)
    rng = where if isinstance(where, np.random.Generator) else None
    clip = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    edges = settings.short_edges
    clip = _resize(clip, edges[0] if rng is None else edges[int(rng.integers(len(edges)))])
    top = view_start(clip.shape[2], settings.crop, rng)
    left = view_start(clip.shape[3], settings.crop, rng)
    clip = clip[:, :, top : top + settings.crop, left : left + settings.crop]
    if rng is not None and settings.flip and rng.random() < 0.5:
        clip = clip.flip(3)
    if wanted < frames:
        clip = torch.cat([clip, clip[-1:].expand(frames - wanted, -1, -1, -1)])
    return clip.permute(1, 0, 2, 3).contiguous()


def _resize(clip: Tensor, short_edge: int) -> Tensor:
    """Return uint8 [frames, 3, height, width] with another short edge."""
    height, width = clip.shape[2:]
    if min(height, width) == short_edge:
        return clip
    scale = short_edge / min(height, width)
    size = [max(short_edge, round(side * scale)) for side in (height, width)]
    return interpolate(clip, size=size, mode="bilinear", antialias=True)


def normalise(batch: Tensor, settings: VideoSettings) -> Tensor:
    """Return uint8 [B, 3, T, H, W] as float32, normalised by the mean and standard deviation of the settings."""
    mean = torch.tensor(settings.mean, device=batch.device).view(1, 3, 1, 1, 1)
    std = torch.tensor(settings.std, device=batch.device).view(1, 3, 1, 1, 1)
    return (batch.float() / 255 - mean) / std
