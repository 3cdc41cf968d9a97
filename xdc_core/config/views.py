"""The settings of a view: how a clip becomes a modality's tensor."""

from typing import Any

from xdc_core.config.schema import Config
from xdc_core.modalities.registry import MODALITIES
from xdc_core.modalities.video import VIDEO


def view_settings(config: Config, modality: str, training: bool) -> dict[str, Any]:
    """Return what decides how a clip becomes this modality's tensor, and which encoder takes it; JSON values."""
    settings = MODALITIES[modality].settings_in(config).view_settings(training)
    # The length of a video view decides which part of a clip goes with it.
    return settings if modality == VIDEO.name else settings | {"video_frames": config.video.frames}


def _passes(config: Config) -> dict[str, Any]:
    """How an encoder makes features. `channels_last` is newer than the first runs: left out where it is not set."""
    how: dict[str, Any] = {"precision": config.extract.precision}
    return how | ({"channels_last": True} if config.extract.channels_last else {})


def with_frames(config: Config, frames: int | None) -> Config:
    """The configuration with views of another number of frames."""
    if frames is None:
        return config
    return config.model_copy(update={"video": config.video.model_copy(update={"frames": frames})})
