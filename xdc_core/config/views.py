"""The views of a configuration, and the settings with which encoders compute features of them."""

from typing import Any

from shards.section import hashed_settings
from xdc_core.config.schema import Config, ExtractSettings
from xdc_core.modalities.registry import MODALITIES
from xdc_core.modalities.video import VIDEO
from xdc_core.modalities.view import Views


def views_of(config: Config, modality: str, frames: int | None = None) -> Views:
    """Return a modality's views; with `frames`, views of another number of frames than in training.

    Their time scale is that of training; the configuration was checked for this.
    """
    video = config.video if frames is None else config.video.model_copy(update={"frames": frames})
    settings = video if modality == VIDEO.name else getattr(config, modality)
    settings = settings.for_frames(video.frames, config.video.frames)
    # The file of weights does not affect a view.
    return Views(MODALITIES[modality], settings.model_copy(update={"weights": None}), video.frames)


def encoding_settings(extract: ExtractSettings) -> dict[str, Any]:
    """Return the settings that decide how an encoder computes features of given views, as JSON values."""
    return hashed_settings(extract, exclude=("batch", "calibration_batches", "views"))
