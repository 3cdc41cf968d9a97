"""The modality `video`: what is seen."""

from typing import Any

from pydantic import Field, model_validator

from shards.section import Positive
from xdc_core.modalities.modality import Modality, ModalitySettings


class VideoSettings(ModalitySettings):
    """How a stored clip becomes the video encoder's input, and which encoder that is."""

    encoder: str = Field(
        "r2plus1d_18",
        description="r2plus1d_18 (the paper's), torchvision_r2plus1d_18 (with torchvision's middle planes) or "
        "r2plus1d_tiny (for CPUs); or another one: its name, or package.module:function",
    )
    frames: int = Field(8, ge=1, description="consecutive frames a view")
    short_edges: tuple[int, ...] = Field(
        (128, 160), min_length=1, description="pixels; training draws one, extraction takes the first"
    )
    crop: int = Field(112, ge=16, description="pixels of the square that the encoder sees")
    flip: bool = Field(True, description="mirror half of the training views")
    mean: tuple[float, float, float] = Field((0.43216, 0.394666, 0.37645), description="RGB in [0, 1]")
    std: tuple[Positive, Positive, Positive] = Field((0.22803, 0.22145, 0.216989), description="RGB in [0, 1]")

    @model_validator(mode="after")
    def _crop_fits(self) -> "VideoSettings":
        if min(self.short_edges) < self.crop:
            raise ValueError(f"crop ({self.crop}) is larger than the smallest of short_edges ({min(self.short_edges)})")
        return self

    def view_settings(self, training: bool) -> dict[str, Any]:
        """Return what decides a view. That of extraction takes the first short edge and is never flipped."""
        settings = super().view_settings(training)
        return settings if training else settings | {"flip": False, "short_edges": settings["short_edges"][:1]}


VIDEO = Modality(
    name="video",
    about="clip -> video encoder",
    settings=VideoSettings,
    stored="video",
    member="mp4",
    columns=("frames",),
    module="xdc_core.modalities.video_view",
    memory_format="channels_last_3d",
    colour="#D55E00",  # The colours are Okabe and Ito's, told apart by everyone.
)
