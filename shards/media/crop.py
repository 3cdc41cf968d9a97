"""The part of a picture that is stored: a rectangle, or a square round the motion inside it."""

import functools
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.filter
import numpy as np
from av.video.reformatter import VideoReformatter

from shards.errors import MediaError
from shards.media.container import decode_from
from shards.media.limits import allowed_frames
from shards.media.source_file import stat_of
from shards.settings import CorpusSettings, CropSettings

MOTION_S = 30.0  # Seconds of a recording in which its motion is measured.
MOTION_PIXELS = 64  # Of the longer side of the rectangle when motion is measured.
REMEMBERED = 4096  # Files whose motion a process remembers: the clips of a file are in several shards.


class Rectangle(NamedTuple):
    """A part of a picture, in pixels."""

    x: int
    y: int
    width: int
    height: int


class Cropper:
    """Cuts the same part out of every frame. It keeps FFmpeg's filter for frames of one size and format."""

    def __init__(self, crop: CropSettings, centre: tuple[float, float] | None = None) -> None:
        """`centre`: of the square, in shares of the rectangle; None: the part is the rectangle."""
        self._crop, self._centre = crop, centre
        self._key: tuple[Any, ...] = ()
        self._graph: av.filter.Graph | None = None

    def __call__(self, frame: av.VideoFrame, aspect: float) -> av.VideoFrame:
        """Return the part of a frame. aspect: width of a stored pixel by its height.

        Raises:
            MediaError: the part is not inside the picture.
        """
        turns, mirrored = turns_of(frame)
        key = (frame.width, frame.height, frame.format.name, turns, mirrored, aspect)
        if key != self._key:
            upright = (frame.width, frame.height) if turns % 2 == 0 else (frame.height, frame.width)
            part = rectangle_of(self._crop, *upright)
            if self._centre is not None:
                part = square_of(self._crop, part, self._centre, upright, aspect if turns % 2 == 0 else 1 / aspect)
            self._graph = _graph(frame, as_stored(part, upright, turns, mirrored))
            self._key = key
        assert self._graph is not None
        self._graph.push(frame)
        cropped: Any = self._graph.pull()
        return cropped


def _graph(frame: av.VideoFrame, part: Rectangle) -> av.filter.Graph:
    graph = av.filter.Graph()
    chain = (
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
        ),
        graph.add("crop", f"{part.width}:{part.height}:{part.x}:{part.y}"),
        graph.add("buffersink"),
    )
    graph.link_nodes(*chain).configure()
    return graph


def cropper_of(path: Path, start_s: float, end_s: float, settings: CorpusSettings) -> Cropper | None:
    """Return what cuts out the part of the picture that `settings.crop` asks for; None: all of it is stored.

    For a square, the motion is measured first, which decodes the clip, or the first 30 s of the file, once more. A
    process remembers the motion of the last 4,096 files.

    Raises:
        MediaError: the pictures do not decode, or the part is not inside them.
    """
    crop = settings.crop
    if crop is None or crop.square is None:
        return None if crop is None else Cropper(crop)
    if crop.motion_of == "clip":
        return Cropper(crop, centre_of_motion(path, start_s, end_s, settings))
    return Cropper(crop, centre_in_file(path, stat_of(path), crop, settings.max_pixels, settings.max_fps))


@functools.lru_cache(REMEMBERED)
def centre_in_file(
    path: Path, state: tuple[int, int], crop: CropSettings, max_pixels: int, max_fps: float
) -> tuple[float, float]:
    """Return the centre of motion of a file. state: its size and time, so that another file is measured again."""
    return centre_of_motion(path, 0.0, MOTION_S, CorpusSettings(crop=crop, max_pixels=max_pixels, max_fps=max_fps))


def rectangle_of(crop: CropSettings, width: int, height: int) -> Rectangle:
    """Return the rectangle in a picture of this size, turned upright: even numbers, because colours have half the size.

    Raises:
        MediaError: it is not inside the picture.
    """
    across, down = (width, height) if crop.unit == "shares" else (1, 1)
    x, y = crop.x * across, crop.y * down
    wide = width - x if crop.width is None else crop.width * across
    high = height - y if crop.height is None else crop.height * down
    if min(wide, high) <= 0 or x + wide > width + 1e-6 or y + high > height + 1e-6:
        raise MediaError(
            f"corpus.crop is not inside the picture: it has {wide:g}x{high:g} pixels from x {x:g} and y {y:g} on, the "
            f"picture has {width}x{height}",
            "outside",
        )
    return Rectangle(_even(x), _even(y), max(2, _even(wide)), max(2, _even(high)))


def square_of(
    crop: CropSettings, rectangle: Rectangle, centre: tuple[float, float], size: tuple[int, int], aspect: float
) -> Rectangle:
    """Return the square round a point of the rectangle, in a picture turned upright; moved to be inside the picture.

    centre: the point, in shares of the rectangle. size: width and height of the picture. aspect: width of a pixel by
    its height; the square is one as players show it.

    Raises:
        MediaError: the square is larger than the picture.
    """
    assert crop.square is not None
    side = crop.square * min(size[0] * aspect, size[1]) if crop.unit == "shares" else crop.square
    wide, high = side / aspect, side
    if wide > size[0] + 1e-6 or high > size[1] + 1e-6:
        raise MediaError(
            f"corpus.crop.square is larger than the picture: {wide:g}x{high:g} pixels of {size[0]}x{size[1]}", "outside"
        )
    x = rectangle.x + centre[0] * rectangle.width - wide / 2
    y = rectangle.y + centre[1] * rectangle.height - high / 2
    return Rectangle(
        max(0, min(2 * round(x / 2), _even(size[0] - wide))),
        max(0, min(2 * round(y / 2), _even(size[1] - high))),
        max(2, _even(wide)),
        max(2, _even(high)),
    )


def _even(pixels: float) -> int:
    return 2 * math.floor(pixels / 2 + 1e-6)


def as_stored(part: Rectangle, size: tuple[int, int], turns: int, mirrored: bool) -> Rectangle:
    """Return where a part of an upright picture of this size is in the stored one. turns, mirrored: see turns_of."""
    (x, y, wide, high), (width, height) = part, size
    for _ in range(-turns % 4):  # One counter-clockwise quarter turn each.
        x, y, wide, high = y, width - x - wide, high, wide
        width, height = height, width
    return Rectangle(width - x - wide if mirrored else x, y, wide, high)


def turns_of(frame: av.VideoFrame) -> tuple[int, bool]:
    """Return the counter-clockwise quarter turns for display, and whether to mirror left to right before."""
    stored: Any
    try:
        stored = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know all kinds of side data; FFmpeg gives the rotation alone.
        return round(frame.rotation / 90) % 4, False
    if stored is None:
        return 0, False
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d = (int(value) for value in np.frombuffer(stored, np.int32)[:5])
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return round(-math.atan2(b, a) / (math.pi / 2)) % 4, mirrored


def aspect_of(stream: av.VideoStream) -> float:
    """Return the width of a stored pixel by its height."""
    return float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1) or 1.0


def centre_of_motion(path: Path, start_s: float, end_s: float, settings: CorpusSettings) -> tuple[float, float]:
    """Return where the picture moves in a span of a file: x and y in shares of the rectangle of `settings.crop`.

    The rectangle of every decoded frame is scaled to at most 64 pixels a side, in grey. How much a pixel moves is the
    mean, over the frames, of its absolute difference from the frame before. The centre is the mean position of the
    pixels, weighted by how much each moves more than the average pixel (0 for those that move less): so noise in the
    whole picture, or a change of its brightness, has no weight. Without motion it is the rectangle's middle.

    Raises:
        MediaError: nothing decodes, a picture is larger than the settings allow, or the rectangle is not inside it.
    """
    moved: np.ndarray | None = None
    before: np.ndarray | None = None
    for picture in _grey(path, start_s, end_s, settings):
        if before is not None and before.shape == picture.shape:
            change = np.abs(picture - before).astype(np.int64)
            moved = change if moved is None or moved.shape != change.shape else moved + change
        before = picture
    if moved is None:
        return 0.5, 0.5
    weight = np.maximum(0, moved * moved.size - moved.sum())  # Whole numbers: exact.
    total = int(weight.sum())
    if not total:
        return 0.5, 0.5
    high, wide = weight.shape
    x = int((weight.sum(axis=0) * (2 * np.arange(wide) + 1)).sum()) / (2 * wide * total)
    y = int((weight.sum(axis=1) * (2 * np.arange(high) + 1)).sum()) / (2 * high * total)
    return x, y


def _grey(path: Path, start_s: float, end_s: float, settings: CorpusSettings) -> Iterator[np.ndarray]:
    """Yield the rectangle of every frame of a span, upright: int32 [height, width], at most 64 pixels a side."""
    assert settings.crop is not None
    cropper, scaler = Cropper(settings.crop), VideoReformatter()
    with decode_from(path, "video", start_s, end_s) as decoding:
        for time_s, frame in allowed_frames(decoding.frames, settings):
            if time_s >= end_s:
                return
            if time_s < start_s - 1e-3:
                continue
            turns, mirrored = turns_of(frame)
            part = cropper(frame, aspect_of(decoding.stream))
            scale = min(1.0, MOTION_PIXELS / max(part.width, part.height))
            wide, high = (max(2, round(side * scale)) for side in (part.width, part.height))
            grey = scaler.reformat(part, wide, high, format="gray", interpolation="AREA", threads=1).to_ndarray()
            yield np.rot90(grey[:, ::-1] if mirrored else grey, turns).astype(np.int32)
