"""The settings of a view: how a clip becomes a modality's tensor."""

from typing import Any

from xdc_core.config.schema import Config


def view_settings(config: Config, modality: str, training: bool) -> dict[str, Any]:
    """What decides how a clip becomes this modality's tensor, and which encoder takes it.

    The centre view of extraction takes the first short edge, is never flipped and never masked.
    """
    unseen = {"weights"} if training else {"weights", "mask_frames", "mask_mels"}
    settings: dict[str, Any] = getattr(config, modality).model_dump(mode="json", exclude=unseen)
    if modality != "video":
        # The length of a video view decides which sound goes with it.
        return settings | {"video_frames": config.video.frames}
    return settings if training else settings | {"flip": False, "short_edges": settings["short_edges"][:1]}


def _passes(config: Config) -> dict[str, Any]:
    """How an encoder makes features. `channels_last` is newer than the first runs: left out where it is not set."""
    how: dict[str, Any] = {"precision": config.extract.precision}
    return how | ({"channels_last": True} if config.extract.channels_last else {})


def with_frames(config: Config, frames: int | None) -> Config:
    """The configuration with views of another number of frames."""
    if frames is None:
        return config
    return config.model_copy(update={"video": config.video.model_copy(update={"frames": frames})})
