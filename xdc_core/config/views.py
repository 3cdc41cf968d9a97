"""The settings of a view: how a clip becomes a modality's tensor."""

from typing import Any

from shards.section import hashed_settings
from xdc_core.config.schema import Config


def view_settings(config: Config, modality: str, training: bool) -> dict[str, Any]:
    """What decides how a clip becomes this modality's tensor, and which encoder takes it.

    The centre view of extraction takes the first short edge, is never flipped and never masked.
    """
    unseen = {"weights"} if training else {"weights", "mask_frames", "mask_mels"}
    settings: dict[str, Any] = hashed_settings(getattr(config, modality), unseen)
    if modality != "video":
        # The length of a video view decides which sound goes with it.
        return settings | {"video_frames": config.video.frames}
    return settings if training else settings | {"flip": False, "short_edges": settings["short_edges"][:1]}


def encoding_settings(config: Config) -> dict[str, Any]:
    """Return what decides how an encoder makes features of views."""
    return hashed_settings(config.extract, exclude=("batch", "calibration_batches"))


def with_frames(config: Config, frames: int | None) -> Config:
    """The configuration with views of another number of frames."""
    if frames is None:
        return config
    return config.model_copy(update={"video": config.video.model_copy(update={"frames": frames})})
