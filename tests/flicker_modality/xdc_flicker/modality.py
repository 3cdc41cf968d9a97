"""The modality `flicker`: differences of neighbouring frames, in grey. Imported without torch."""

from pydantic import Field

from xdc_core.modalities.modality import Modality, ModalitySettings


class FlickerSettings(ModalitySettings):
    """How a stored clip becomes the flicker encoder's input, and which encoder that is."""

    encoder: str = Field("xdc_flicker.encoder:flicker_tiny", description="flicker_tiny, for CPUs")
    size: int = Field(24, ge=8, description="pixels of the square to which differences are scaled")
    gain: float = Field(8.0, gt=0, description="what differences of grey in [0, 1] are multiplied by")


FLICKER = Modality(
    name="flicker",
    about="clip -> flicker encoder",
    settings=FlickerSettings,
    stored="video",
    member="mp4",
    columns=("frames",),
    module="xdc_flicker.view",
    memory_format="channels_last_3d",
    colour="#CC79A7",
)
