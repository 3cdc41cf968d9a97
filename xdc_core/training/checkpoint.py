"""Checkpoints: the state of a training, from which it continues after a kill."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from shards.errors import StageError
from shards.store.fault import fault_point
from shards.store.files import new_file


def save_checkpoint(directory: Path, step: int, state: dict[str, Any]) -> Path:
    """Write checkpoint-<step>-<sha256>.pt atomically, then remove older ones. The name has 16 digits of the sha256."""
    buffer = io.BytesIO()  # When the disk is full, the error of torch.save to a file has no cause.
    torch.save({"step": step, **state}, buffer)
    data = buffer.getbuffer()
    path = directory / f"checkpoint-{step:08d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
    with new_file(path) as temporary:
        temporary.write_bytes(data)
    for older in directory.glob("checkpoint-*.pt"):
        if older != path:
            older.unlink()
            fault_point("after removal", older.name)
    return path


def load_checkpoint(directory: Path) -> dict[str, Any] | None:
    """Read the newest checkpoint onto the CPU; None without one. Only tensors and plain values are unpickled.

    Raises:
        StageError: its bytes differ from those that were written.
    """
    paths = sorted(directory.glob("checkpoint-*.pt"))
    if not paths:
        return None
    data = paths[-1].read_bytes()
    _, _, digest = paths[-1].stem.split("-", 1)[1].partition("-")  # Older versions wrote names without it.
    if digest and hashlib.sha256(data).hexdigest()[:16] != digest:
        raise StageError(
            f"{paths[-1]} is damaged: its sha256 differs from the one in its name. Delete it and run this again: the "
            "training then starts from the beginning."
        )
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state
