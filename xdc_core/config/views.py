"""The settings of a view: how a clip becomes a modality's tensor."""

from typing import Any

from shards.section import hashed_settings
from xdc_core.config.schema import Config
from xdc_core.modalities.registry import MODALITIES
from xdc_core.modalities.video import VIDEO


def view_settings(config: Config, modality: str, training: bool) -> dict[str, Any]:
    """Return what decides how a clip becomes this modality's tensor, and which encoder takes it; JSON values."""
    viewed = MODALITIES[modality]
    settings = viewed.settings_in(config).view_settings(training)
    if viewed.version > 1:
        settings["view_version"] = viewed.version
    # The length of a video view decides which part of a clip goes with it.
    return settings if modality == VIDEO.name else settings | {"video_frames": config.video.frames}


def encoding_settings(config: Config) -> dict[str, Any]:
    """Return what decides how an encoder makes features of views."""
    return hashed_settings(config.extract, exclude=("batch", "calibration_batches"))


def with_frames(config: Config, frames: int | None) -> Config:
    """Return the configuration with views of another number of frames."""
    if frames is None:
        return config
    return config.model_copy(update={"video": config.video.model_copy(update={"frames": frames})})
