"""The views of one modality with the settings of a configuration."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xdc_core.modalities.modality import Modality, ModalitySettings, Row, Where
from xdc_core.modalities.video import VIDEO

if TYPE_CHECKING:
    import torch

    from shards.media.decode import StoredFrames


@dataclass(frozen=True)
class Views:
    """Convert clips to one modality's tensors. Views of all modalities cover the same `frames` frames of a clip."""

    modality: Modality
    settings: ModalitySettings
    frames: int

    def view(self, data: "bytes | StoredFrames", row: Row, where: Where) -> "torch.Tensor":
        """Decode a clip's member and return one view: random with a generator, the centre with None, or from a frame.

        Raises:
            MediaError: the member does not decode.
        """
        return self.modality.view(data, row, self.settings, self.frames, where)

    def span(self, row: Row, where: Where) -> tuple[int, int] | None:
        """Return the first frame that a view shows and the one after its last; None if it may need all of the clip."""
        return self.modality.span(row, self.frames, where)

    def normalise(self, batch: "torch.Tensor") -> "torch.Tensor":
        """Convert a batch of views [B, ...], on any device, to the encoder's input: float32 [B, ...]."""
        return self.modality.normalise(batch, self.settings)

    def hashed(self, training: bool) -> dict[str, Any]:
        """Return the settings that decide a view, in training or in extraction, and the encoder, as JSON values."""
        settings = self.settings.view_settings(training)
        if self.modality.version > 1:
            settings["view_version"] = self.modality.version
        # The length of a video view decides which part of the sound belongs to it.
        return settings if self.modality.name == VIDEO.name else settings | {"video_frames": self.frames}
