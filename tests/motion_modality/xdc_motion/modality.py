"""The modality `motion`: differences of neighbouring frames, in grey. Imported without torch."""

from pydantic import Field

from xdc_core.modalities.modality import Modality, ModalitySettings


class MotionSettings(ModalitySettings):
    """How a stored clip becomes the motion encoder's input, and which encoder that is."""

    encoder: str = Field("xdc_motion.encoder:motion_tiny", description="motion_tiny, for CPUs")
    size: int = Field(24, ge=8, description="pixels of the square to which differences are scaled")
    gain: float = Field(8.0, gt=0, description="what differences of grey in [0, 1] are multiplied by")


MOTION = Modality(
    name="motion",
    about="clip -> motion encoder",
    settings=MotionSettings,
    stored="video",
    member="mp4",
    columns=("frames",),
    module="xdc_motion.view",
    memory_format="channels_last_3d",
    colour="#CC79A7",
)
