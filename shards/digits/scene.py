"""The picture: a handwritten digit that moves and bounces over a still, textured background."""

import colorsys
import math

import numpy as np
from numpy.typing import NDArray

from shards.digits.factors import Factors


def _smooth(field: NDArray[np.float64], cut: float) -> NDArray[np.float64]:
    """Low-pass a square, periodic field, so that little detail finer than 1 / `cut` of its side is left."""
    size = len(field)
    squared = (np.fft.fftfreq(size) ** 2)[:, None] + (np.fft.fftfreq(size) ** 2)[None]
    smooth: NDArray[np.float64] = np.fft.ifft2(np.fft.fft2(field) * np.exp(-squared * (size / cut) ** 2)).real
    return smooth


def draw_texture(name: str, side: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw a random texture of the family `name` (one of `factors.TEXTURES`): float64 [side, side], 0 to 1."""
    y, x = np.mgrid[0:side, 0:side] / side
    turn, phase, shift = generator.uniform(0, 2 * math.pi, 3)
    count = generator.uniform(2, 6)  # Periods across the picture.
    along = 2 * math.pi * count * (x * math.cos(turn) + y * math.sin(turn))
    across = 2 * math.pi * count * (y * math.cos(turn) - x * math.sin(turn))
    match name:
        case "stripes":
            field = np.sign(np.sin(along + phase))
        case "checks":
            field = np.sign(np.sin(along + phase) * np.sin(across + shift))
        case "waves":
            field = np.sin(along + phase + 1.5 * np.sin(across / 2 + shift))
        case "rings":
            field = np.sin(2 * math.pi * count * np.hypot(x - phase / 6.3, y - shift / 6.3) * 1.5)
        case "blobs":
            field = _smooth(generator.standard_normal((side, side)), count)
        case "grain":
            field = _smooth(generator.standard_normal((side, side)), side / 4 + 2 * count)
        case _:
            raise ValueError(f"no texture is called {name!r}")
    field = field - field.min()
    texture: NDArray[np.float64] = field / max(field.max(), 1e-9)
    return texture


def _bounce(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reflect a straight path at 0 and 1, so that it stays between them."""
    folded: NDArray[np.float64] = 1 - np.abs(position % 2 - 1)
    return folded


def draw_path(factors: Factors, frames: int, fps: int, side: int, room: int) -> NDArray[np.int64]:
    """Return the positions of the digit's top left corner: int [T, 2], (x, y) in pixels, 0 to `room`."""
    travelled = factors.speed * side / room * np.arange(frames) / fps
    x = _bounce(factors.start[0] + travelled * math.cos(factors.angle))
    y = _bounce(factors.start[1] + travelled * math.sin(factors.angle))
    return np.rint(np.stack([x, y], axis=1) * room).astype(np.int64)


def draw_scene(
    factors: Factors,
    writing: NDArray[np.float32],
    generator: np.random.Generator,
    *,
    frames: int,
    fps: int,
    side: int,
    nuisance: float,
) -> NDArray[np.uint8]:
    """Return the frames of a clip: uint8 [T, H, W, 3], RGB.

    The digit is white. The background has one hue; its brightness is at most `nuisance` (0 to 1) of the digit's.
    `writing` is the digit's ink, float32 [P, P], 0 to 1. The non-random properties of the texture are in `factors`.
    """
    texture = draw_texture(factors.texture, side, generator)
    colour = np.array(colorsys.hsv_to_rgb(factors.hue, 0.8, 1.0))
    background = nuisance * (0.2 + 0.8 * texture)[:, :, None] * colour
    pixels = len(writing)
    scene = np.repeat(background[None], frames, axis=0)
    ink = writing[:, :, None]
    for frame, (x, y) in zip(scene, draw_path(factors, frames, fps, side, side - pixels), strict=True):
        patch = frame[y : y + pixels, x : x + pixels]
        patch += ink * (1 - patch)
    return np.rint(scene * 255).astype(np.uint8)
