"""Limits for one file: checked against its header before decoding, and again during decoding."""

import math
from collections.abc import Iterator
from typing import Any

from shards.errors import MediaError
from shards.media.child import Limits
from shards.settings import CorpusSettings


def too_much(width: int, height: int, fps: float, duration_s: float, settings: CorpusSettings) -> str:
    """Return why a file exceeds the limits according to its header; "" if it does not. Pixels, frames/s, seconds."""
    if width * height > settings.max_pixels:
        return _too_large(width, height, settings)
    if fps > settings.max_fps:
        return _too_fast(fps, settings)
    if duration_s > settings.max_hours * 3600:
        return f"it is {duration_s / 3600:.1f} hours long: more than max_hours ({settings.max_hours:g})"
    return ""


def _too_large(width: int, height: int, settings: CorpusSettings) -> str:
    return f"the picture is {width}x{height}: larger than max_pixels ({settings.max_pixels})"


def _too_fast(fps: float, settings: CorpusSettings) -> str:
    return f"the video has {fps:.0f} frames per second: more than max_fps ({settings.max_fps:g})"


def allowed_frames(frames: Iterator[tuple[float, Any]], settings: CorpusSettings) -> Iterator[tuple[float, Any]]:
    """Yield frames with their times. Raises MediaError for more pixels or more frames per second than are allowed.

    A header may be wrong, and a picture may change its size in the middle.
    """
    first_s, last_s = math.inf, -math.inf
    for seen, (time_s, frame) in enumerate(frames, start=1):
        if frame.width * frame.height > settings.max_pixels:
            raise MediaError(_too_large(frame.width, frame.height, settings), "too_large")
        first_s, last_s = min(first_s, time_s), max(last_s, time_s)
        yield time_s, frame
        lasted_s = max(0.0, last_s - first_s)
        if seen > settings.max_fps * (1.0 + lasted_s):
            raise MediaError(_too_fast((seen - 1) / lasted_s if lasted_s else seen, settings), "too_large")


def check_bytes(size: int, most_mb: float) -> None:
    """Raise MediaError if an encoded clip of `size` bytes is larger than `most_mb` megabytes."""
    if size > most_mb * 1e6:
        raise MediaError(f"the encoded clip is larger than max_clip_mb ({most_mb:g})", "too_large")


def limits_of(settings: CorpusSettings) -> Limits:
    """Return what a child process may use for one file or clip."""
    return Limits(settings.clip_timeout_s, settings.clip_cpu_s, settings.clip_memory_mb)
