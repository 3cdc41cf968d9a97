"""A training round's position, so that it goes on where it was killed."""

from pathlib import Path
from typing import Any

import torch

from shards.commit import new_file


def save_checkpoint(directory: Path, step: int, state: dict[str, Any]) -> Path:
    """Write checkpoint-<step>.pt, whole, then remove older ones."""
    path = directory / f"checkpoint-{step:08d}.pt"
    with new_file(path) as temporary:
        torch.save({"step": step, **state}, temporary)
    for older in directory.glob("checkpoint-*.pt"):
        if older != path:
            older.unlink()
    return path


def load_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The newest checkpoint, on the CPU, or None. Nothing is unpickled but tensors and plain values."""
    paths = sorted(directory.glob("checkpoint-*.pt"))
    if not paths:
        return None
    state: dict[str, Any] = torch.load(paths[-1], map_location="cpu", weights_only=True)
    return state
