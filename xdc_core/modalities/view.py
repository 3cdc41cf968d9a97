"""The views of one modality, as a configuration wants them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xdc_core.modalities.modality import Modality, ModalitySettings, Row, Where
from xdc_core.modalities.video import VIDEO

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Views:
    """How clips become one modality's tensors. The views of all modalities cover the same `frames` frames of a clip."""

    modality: Modality
    settings: ModalitySettings
    frames: int

    def view(self, data: bytes, row: Row, where: Where) -> "torch.Tensor":
        """Decode a clip's member and return one view: random with a generator, the centre with None, or from a frame.

        Raises:
            MediaError: the member does not decode.
        """
        return self.modality.view(data, row, self.settings, self.frames, where)

    def normalise(self, batch: "torch.Tensor") -> "torch.Tensor":
        """Make a batch of views [B, ...], on any device, what the encoder takes: float32 [B, ...]."""
        return self.modality.normalise(batch, self.settings)

    def hashed(self, training: bool) -> dict[str, Any]:
        """Return what decides a view, in training or in extraction, and which encoder takes it; JSON values."""
        settings = self.settings.view_settings(training)
        if self.modality.version > 1:
            settings["view_version"] = self.modality.version
        # The length of a video view decides which part of a clip goes with it.
        return settings if self.modality.name == VIDEO.name else settings | {"video_frames": self.frames}
