"""Pictures of an encoder's first layer: in space, and in time if it has a convolution in time."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from shards.errors import StageError
from shards.store.checked_read import read_stored

# Names of the first convolution in space, and of the following one in time (R(2+1)D), in xdc's own encoders.
IN_SPACE = ("stem.0.weight", "stem.weight")
IN_TIME = "stem.3.weight"


def stored_weights(path: Path) -> dict[str, np.ndarray]:
    """Read the parameters and buffers of a stored encoder, by name.

    Raises:
        StageError: the file is missing or damaged.
    """
    data = read_stored(path, "train")
    try:
        return dict(load(data))
    except SafetensorError as error:
        raise StageError(f"{path} cannot be read as an encoder: {error}") from error


def first_filters(weights: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the first convolution in space, float32 [filters, height, width, 1 or 3].

    Returns None if it has another name, or its input planes cannot be shown as grey or as colours.
    """
    weight = next((weights[name] for name in IN_SPACE if name in weights), None)
    if weight is None or weight.ndim not in (4, 5) or weight.shape[1] not in (1, 3):
        return None
    weight = weight[:, :, 0] if weight.ndim == 5 else weight
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1), np.float32)


def time_filters(weights: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the first convolution in time, float32 [filters, inputs * 3], a row per output plane; None without one."""
    weight = weights.get(IN_TIME)
    if weight is None or weight.ndim != 5:
        return None
    return np.ascontiguousarray(weight[..., 0, 0].reshape(len(weight), -1), np.float32)


def tiles(filters: np.ndarray, scale: int = 6) -> np.ndarray:
    """Draw filters side by side, uint8 [rows, columns, 3]: each over its own range, 12 per row, grey lines between."""
    count, height, width, _ = filters.shape
    low, high = filters.min(axis=(1, 2, 3), keepdims=True), filters.max(axis=(1, 2, 3), keepdims=True)
    shown = ((filters - low) / np.maximum(high - low, 1e-12) * 255).astype(np.uint8)
    shown = np.broadcast_to(shown, (count, height, width, 3)).repeat(scale, 1).repeat(scale, 2)
    across = min(12, count)
    rows = -(-count // across)
    sheet = np.full((rows * (height * scale + 2), across * (width * scale + 2), 3), 128, np.uint8)
    for number, tile in enumerate(shown):
        top, left = number // across * (height * scale + 2), number % across * (width * scale + 2)
        sheet[top : top + height * scale, left : left + width * scale] = tile
    return sheet


def matrix(values: np.ndarray, scale: int = 5) -> np.ndarray:
    """Draw a matrix, uint8 [rows, columns, 3], in blue (negative), white (0) and red (positive)."""
    from matplotlib import colormaps

    limit = max(float(np.abs(values).max()), 1e-12)
    shown = (colormaps["RdBu_r"](values / limit / 2 + 0.5)[..., :3] * 255).astype(np.uint8)
    return shown.repeat(scale, 0).repeat(scale, 1)


def data_address(picture: np.ndarray) -> str:
    """Return a picture, uint8 [height, width, 3], as a data: address of a PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
