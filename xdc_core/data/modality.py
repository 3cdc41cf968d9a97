"""A modality: how a stored clip becomes a tensor. Looked up by name; adding a third touches no stage."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from shards.media.decode import decode_frames, decode_sound
from xdc_core.config.schema import Config
from xdc_core.data.logmel import Align, LogMel, align_frames, log_mel, mask_stretch, seen_frames, span_frames

Row = Mapping[str, Any]
# Where a view lies: at random, in the middle (None), or in time from a frame on (and in space in the middle).
Where = np.random.Generator | int | None
View = Callable[[bytes, Row, Config, Where], Tensor]


@dataclass(frozen=True)
class Modality:
    """`member` is the clip's file in the tar. `view(bytes, index row, config, where)` decodes it and gives one view:
    random with a generator (training), the centre with None (extraction), or from a frame on (evaluation).
    `normalise(batch, config)` makes a batch of views, on any device, what the encoder takes. `channels_last` is the
    memory format of such a batch in which the channels of one place lie side by side.
    """

    name: str
    member: str
    view: View
    normalise: Callable[[Tensor, Config], Tensor]
    channels_last: torch.memory_format


def view_start(available: int, wanted: int, where: Where) -> int:
    """Where a view of `wanted` begins among `available`: anywhere (temporal jitter), in the middle, or as said."""
    room = max(0, available - wanted)
    if where is None:
        return room // 2
    return min(where, room) if isinstance(where, int) else int(where.integers(room + 1))


def video_view(mp4: bytes, row: Row, config: Config, where: Where) -> Tensor:
    """uint8 [3, frames, crop, crop]. A clip with fewer frames is held on its last one.

    Short edge, crop place and flip as in VMZ: drawn in training; the first short edge and the centre in extraction.
    """
    settings = config.video
    wanted = min(settings.frames, row["frames"])
    frames = decode_frames(mp4, view_start(row["frames"], wanted, where), wanted)
    rng = where if isinstance(where, np.random.Generator) else None
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    edges = settings.short_edges
    clip = _resize(clip, edges[0] if rng is None else edges[int(rng.integers(len(edges)))])
    top = view_start(clip.shape[2], settings.crop, rng)
    left = view_start(clip.shape[3], settings.crop, rng)
    clip = clip[:, :, top : top + settings.crop, left : left + settings.crop]
    if rng is not None and settings.flip and rng.random() < 0.5:
        clip = clip.flip(3)
    if wanted < settings.frames:
        clip = torch.cat([clip, clip[-1:].expand(settings.frames - wanted, -1, -1, -1)])
    return clip.permute(1, 0, 2, 3).contiguous()


def _resize(clip: Tensor, short_edge: int) -> Tensor:
    """uint8 [frames, 3, height, width] -> the same with this short edge."""
    height, width = clip.shape[2:]
    if min(height, width) == short_edge:
        return clip
    scale = short_edge / min(height, width)
    size = [max(short_edge, round(side * scale)) for side in (height, width)]
    return interpolate(clip, size=size, mode="bilinear", antialias=True)


def normalise_video(batch: Tensor, config: Config) -> Tensor:
    """uint8 [B, 3, T, H, W] -> float32 with the mean and standard deviation of the configuration taken out."""
    mean = torch.tensor(config.video.mean, device=batch.device).view(1, 3, 1, 1, 1)
    std = torch.tensor(config.video.std, device=batch.device).view(1, 3, 1, 1, 1)
    return (batch.float() / 255 - mean) / std


def audio_view(flac: bytes, row: Row, config: Config, where: Where) -> Tensor:
    """float32 [1, frames, mels]: the log-mel of the sound that goes with a video view placed as in `video_view`.

    In training, stretches of frames and of mel bands are masked where the settings ask for it.
    """
    settings, recipe = config.audio, LogMel(sample_rate=row["sample_rate"], mels=config.audio.mels)
    total = recipe.frames(row["samples"])
    wanted = min(config.video.frames, row["frames"])
    start_s = view_start(row["frames"], wanted, where) / row["fps"]
    span = span_frames(start_s, start_s + wanted / row["fps"], total)
    first, last = seen_frames(total, settings.frames, settings.align, span)
    # A view is a second or so of a sound that may last for minutes: only that is decoded.
    sound = decode_sound(flac, *recipe.samples(first, last, row["samples"]))
    # What is seen begins where the view does: "centre" has become "start".
    align: Align = "span" if settings.align == "span" else "start"
    view = align_frames(log_mel(torch.from_numpy(sound), recipe), settings.frames, align)
    if isinstance(where, np.random.Generator):
        for longest, axis in ((settings.mask_frames, 0), (settings.mask_mels, 1)):
            if longest:
                view = mask_stretch(view, longest, axis, where)
    return view[None]


def normalise_audio(batch: Tensor, config: Config) -> Tensor:
    """Log-mels go in as they are (method: no mean and deviation of a data set)."""
    return batch


MODALITIES: Mapping[str, Modality] = {
    "video": Modality("video", "mp4", video_view, normalise_video, torch.channels_last_3d),
    "audio": Modality("audio", "flac", audio_view, normalise_audio, torch.channels_last),
}
