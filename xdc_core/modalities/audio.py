"""The modality `audio`: what is heard."""

from typing import Any, Literal

from pydantic import Field, model_validator

from xdc_core.modalities.modality import Modality, ModalitySettings


class AudioSettings(ModalitySettings):
    """How a stored clip's sound becomes the audio encoder's input, and which encoder that is."""

    encoder: str = Field(
        "audio_resnet_18",
        description="audio_resnet_18 (the paper's) or audio_resnet_tiny; or another one: its name, or "
        "package.module:function",
    )
    frames: int = Field(100, ge=8, description="log-mel frames of 10 ms a view")
    mels: int = Field(40, ge=8, le=80, description="mel filters")
    align: Literal["span", "start", "centre"] = Field(
        "span",
        description="which sound goes with a video view: span (the view's own span, resampled onto the frames), "
        "start (frames from its start on) or centre (frames around its middle). Unverified for XDC",
    )
    mask_frames: int = Field(
        0, ge=0, description="longest stretch of frames that a training view loses to silence (SpecAugment). Unverified"
    )
    mask_mels: int = Field(
        0, ge=0, description="most neighbouring mel bands that a training view loses to silence. Unverified"
    )

    @model_validator(mode="after")
    def _masks_leave_something(self) -> "AudioSettings":
        for mask, whole in (("mask_frames", "frames"), ("mask_mels", "mels")):
            if getattr(self, mask) >= getattr(self, whole):
                raise ValueError(
                    f"{mask} ({getattr(self, mask)}) must be less than {whole} ({getattr(self, whole)}): "
                    "some views would be nothing but silence"
                )
        return self

    def view_settings(self, training: bool) -> dict[str, Any]:
        """Return what decides a view. That of extraction is never masked."""
        settings = super().view_settings(training)
        unseen = () if training else ("mask_frames", "mask_mels")
        return {name: value for name, value in settings.items() if name not in unseen}


AUDIO = Modality(
    name="audio",
    about="clip -> audio encoder",
    settings=AudioSettings,
    stored="audio",
    member="flac",
    columns=("frames", "fps", "sample_rate", "samples"),
    module="xdc_core.modalities.audio_view",
    memory_format="channels_last",
    colour="#0072B2",
)
