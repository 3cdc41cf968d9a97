"""Encoders on disk: safetensors, with the encoder's name in the header."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save

from shards.errors import StageError
from shards.store.checked_read import read_stored
from shards.store.files import new_file
from xdc_core.encoders.registry import encoder_spec

FILE_NAME = "encoder.safetensors"


def save_encoder(path: Path, encoder: torch.nn.Module, name: str) -> None:
    """Write an encoder's parameters and buffers, float32, on the CPU."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in encoder.state_dict().items()}
    with new_file(path) as temporary:
        # One entry only: safetensors writes several in a random order, and equal encoders must give equal files. Not by
        # `save_file`, whose files other users cannot read.
        temporary.write_bytes(save(tensors, metadata={"encoder": name}))


def read_encoder(path: Path) -> tuple[str | None, dict[str, torch.Tensor]]:
    """Return the encoder's name in a file's header, and its parameters and buffers by name.

    Raises OSError or SafetensorError if the file is missing or damaged.
    """
    with safe_open(path, framework="pt") as file:
        name = (file.metadata() or {}).get("encoder")
    return name, load_file(path)


def _header(data: bytes) -> dict[str, str]:
    """Return the metadata in the bytes of a safetensors file. Raises ValueError if there is none."""
    size = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    return metadata


def load_encoder(path: Path, name: str) -> torch.nn.Module:
    """Return the encoder `name` with the weights of a file, on the CPU, in training mode.

    Raises:
        StageError: the file is missing or damaged, or holds another encoder.
    """
    data = read_stored(path, "train")
    try:
        stored, tensors = _header(data).get("encoder"), load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise StageError(f"{path} cannot be read as an encoder: {error}") from error
    if stored != name:
        raise StageError(f"{path} holds the encoder {stored!r}, but the configuration says {name!r}.")
    encoder = encoder_spec(name).build(tensors)
    encoder.load_state_dict(tensors)
    return encoder
