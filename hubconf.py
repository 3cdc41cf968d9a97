"""Exported encoders for torch.hub: torch.hub.load(FOLDER OR REPOSITORY, "encoder", directory="exported/video")."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

dependencies = ["torch", "torchaudio", "safetensors", "av", "numpy", "pyarrow", "pydantic", "yaml"]


def encoder(directory: str, device: str = "cpu") -> "torch.nn.Module":
    """Return an encoder that `xdc export` wrote, in evaluation mode.

    directory: the folder of one encoder, such as exported/video. It maps normalised views to features, float32
    [B, width]; its attribute `width` is their width. For media files use xdc_core.exports.load.feature.
    """
    from xdc_core.exports.load import load_export

    return load_export(directory, device).encoder
