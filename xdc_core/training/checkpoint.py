"""A training round's position, so that it goes on where it was killed."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from shards.errors import StageError
from shards.store.fault import fault_point
from shards.store.files import new_file


def save_checkpoint(directory: Path, step: int, state: dict[str, Any]) -> Path:
    """Write checkpoint-<step>-<sha256>.pt, whole, then remove older ones. The name has 16 digits of the sha256."""
    buffer = io.BytesIO()  # torch itself makes of a full disk an error without a cause.
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
    """The newest checkpoint, on the CPU, or None. Nothing is unpickled but tensors and plain values.

    Raises:
        StageError: its bytes are not those that were written.
    """
    paths = sorted(directory.glob("checkpoint-*.pt"))
    if not paths:
        return None
    data = paths[-1].read_bytes()
    _, _, told = paths[-1].stem.split("-", 1)[1].partition("-")  # Older versions told no sha256.
    if told and hashlib.sha256(data).hexdigest()[:16] != told:
        raise StageError(
            f"{paths[-1]} is damaged: its sha256 is not that of its name. Delete it and run this again: the training "
            "then begins anew."
        )
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state
