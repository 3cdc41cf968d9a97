"""Encoders on disk: safetensors, whose header says which encoder it is and how its input is made."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save

from shards.errors import StageError
from shards.store.checked_read import read_stored
from shards.store.files import new_file
from xdc_core.encoders.header import EncoderHeader, read_header
from xdc_core.encoders.registry import encoder_spec
from xdc_core.encoders.transformers_files import stored_name
from xdc_core.modalities.view import Views

FILE_NAME = "encoder.safetensors"


def save_encoder(path: Path, encoder: torch.nn.Module, header: EncoderHeader) -> None:
    """Write an encoder's parameters and buffers, float32, on the CPU. Equal encoders give equal files."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in encoder.state_dict().items()}
    with new_file(path) as temporary:
        # Not by `save_file`, whose files other users cannot read.
        temporary.write_bytes(_with_metadata(save(tensors), header.metadata()))


def _with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file with metadata in this order, where safetensors has a random one."""
    size = int.from_bytes(data[:8], "little")
    text = json.dumps({"__metadata__": metadata} | json.loads(data[8 : 8 + size]), separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # The tensors are aligned to 8 bytes.
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def stored_header(path: Path) -> EncoderHeader | None:
    """Return what a file's header says of its encoder; None if xdc did not write it.

    Raises OSError, SafetensorError or ValueError if the file is missing or damaged.
    """
    with safe_open(path, framework="pt") as file:
        return read_header(file.metadata() or {})


def read_encoder(path: Path) -> tuple[str | None, dict[str, torch.Tensor]]:
    """Return the encoder's name in a file's header, and its parameters and buffers by name.

    Raises OSError, SafetensorError or ValueError if the file is missing or damaged.
    """
    header = stored_header(path)
    return header.encoder if header else None, load_file(path)


def _metadata(data: bytes) -> dict[str, str]:
    """Return the metadata in the bytes of a safetensors file. Raises ValueError if there is none."""
    size = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    return metadata


def load_encoder(
    path: Path, name: str, views: Views | None = None, clips: Mapping[str, Any] | None = None, stage: str = "train"
) -> torch.nn.Module:
    """Return the encoder `name` with the weights of a file, on the CPU, in training mode.

    views, clips: of its input, and of the corpus that it is from; where they are given, they are compared with those in
    the file's header (see `EncoderHeader.misfits`). stage: what wrote the file, for messages.

    Raises:
        StageError: the file is missing or damaged, holds another encoder, or one for other input.
    """
    data = read_stored(path, stage)
    try:
        header, tensors = read_header(_metadata(data)), load(data)
        lines = header.misfits(views, clips or {}) if header and views and header.encoder == stored_name(name) else []
    except (SafetensorError, ValueError, KeyError) as error:
        raise StageError(f"{path} cannot be read as an encoder: {error}") from error
    stored = header.encoder if header else None
    if stored != stored_name(name):
        raise StageError(f"{path} holds the encoder {stored!r}, but the configuration says {name!r}.")
    if lines:
        raise StageError(f"{path} is for other input, so its features would be wrong: {misfit(lines)}")
    encoder = encoder_spec(name).build(tensors)
    encoder.load_state_dict(tensors)
    return encoder


def misfit(lines: list[str]) -> str:
    """Return the end of a message about settings in which a file differs from the configuration."""
    return f"{'; '.join(lines)}. Set them to the file's values in xdc.yaml, or use another encoder."
