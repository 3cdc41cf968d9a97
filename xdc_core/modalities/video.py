"""The modality `video`: the pictures of a clip."""

from typing import Any, ClassVar

from pydantic import Field, model_validator

from shards.section import Positive
from xdc_core.modalities.modality import Modality, ModalitySettings


class VideoSettings(ModalitySettings):
    """The video encoder, and how a stored clip's pictures become its input."""

    encoder: str = Field(
        "r2plus1d_18",
        description="r2plus1d_18 (the paper's), torchvision_r2plus1d_18 (with torchvision's middle planes) or "
        "r2plus1d_tiny (for CPUs); or another encoder: its name, package.module:function, or "
        "hf:MODEL (VideoMAE, V-JEPA 2); see docs/outside.md",
    )
    frames: int = Field(8, ge=1, description="consecutive frames per view")
    short_edges: tuple[int, ...] = Field(
        (128, 160),
        min_length=1,
        description="pixels of the shorter side; training draws one, extraction uses the first",
    )
    crop: int = Field(112, ge=16, description="pixels of both sides of the encoder's input")
    flip: bool = Field(True, description="mirror half of the training views")
    mean: tuple[float, float, float] = Field((0.43216, 0.394666, 0.37645), description="RGB in [0, 1]")
    std: tuple[Positive, Positive, Positive] = Field((0.22803, 0.22145, 0.216989), description="RGB in [0, 1]")

    exact: ClassVar[tuple[str, ...]] = ("mean", "std")

    @model_validator(mode="after")
    def _crop_fits(self) -> "VideoSettings":
        if min(self.short_edges) < self.crop:
            raise ValueError(f"crop ({self.crop}) is larger than the smallest of short_edges ({min(self.short_edges)})")
        return self

    def view_settings(self, training: bool) -> dict[str, Any]:
        """Return the settings of a view. Views in extraction have the first short edge and are never flipped."""
        settings = super().view_settings(training)
        return settings if training else settings | {"flip": False, "short_edges": settings["short_edges"][:1]}

    def time_scale(self, frames: int) -> float:
        """Return 1: a step of the input is a frame of the clip."""
        return 1.0


VIDEO = Modality(
    name="video",
    about="clip -> video encoder",
    settings=VideoSettings,
    stored="video",
    member="mp4",
    columns=("frames",),
    module="xdc_core.modalities.video_view",
    memory_format="channels_last_3d",
    by_groups=True,
    colour="#D55E00",  # The colours are those of Okabe and Ito, for colour-blind readers.
    word="picture",
)
