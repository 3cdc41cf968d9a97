"""The modality `audio`: the sound of a clip."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shards.section import Positive, Since
from xdc_core.modalities.modality import Modality, ModalitySettings

LEAST_FRAMES = 8
MOST_VMZ = 80  # Narrower filters would have single bins of the FFT.


class AudioSettings(ModalitySettings):
    """The audio encoder, and how a stored clip's sound becomes its input."""

    encoder: str = Field(
        "audio_resnet_18",
        description="audio_resnet_18 (the paper's) or audio_resnet_tiny; or another encoder: its name, or "
        "package.module:function, or hf:MODEL (AST); see docs/outside.md",
    )
    frames: int = Field(100, ge=LEAST_FRAMES, description="log-mel frames of 10 ms per view")
    mels: int = Field(40, ge=8, le=128, description="mel filters; at most 80 unless filters is kaldi")
    filters: Annotated[Literal["vmz", "kaldi"], Since("0.2.0")] = Field(
        "vmz",
        description="recipe of the log-mel: vmz (the paper's code base) or kaldi (that of AST's feature extractor)",
    )
    mean: Annotated[float, Since("0.2.0")] = Field(0.0, description="subtracted from the log-mel; the paper's: 0")
    std: Annotated[Positive, Since("0.2.0")] = Field(
        1.0, description="the log-mel is divided by it; the paper's: 1; for AST twice the std of its preprocessing"
    )
    align: Literal["span", "start", "centre"] = Field(
        "span",
        description="sound for a video view: span (the view's span, resampled to the frames), "
        "start (frames from its start on) or centre (frames around its middle). Unverified for XDC",
    )
    mask_frames: int = Field(
        0, ge=0, description="largest number of consecutive frames masked in a training view (SpecAugment). Unverified"
    )
    mask_mels: int = Field(
        0, ge=0, description="largest number of consecutive mel bands masked in a training view. Unverified"
    )

    exact: ClassVar[tuple[str, ...]] = ("mels", "filters", "mean", "std", "align")

    @model_validator(mode="after")
    def _filters_have_bins(self) -> "AudioSettings":
        if self.filters == "vmz" and self.mels > MOST_VMZ:
            raise ValueError(f"mels ({self.mels}) must be at most {MOST_VMZ} with filters: vmz")
        return self

    @model_validator(mode="after")
    def _masks_leave_something(self) -> "AudioSettings":
        for mask, whole in (("mask_frames", "frames"), ("mask_mels", "mels")):
            if getattr(self, mask) >= getattr(self, whole):
                raise ValueError(
                    f"{mask} ({getattr(self, mask)}) must be less than {whole} ({getattr(self, whole)}): "
                    "some views would be completely masked"
                )
        return self

    def view_settings(self, training: bool) -> dict[str, Any]:
        """Return the settings of a view. Views in extraction are never masked."""
        settings = super().view_settings(training)
        unseen = () if training else ("mask_frames", "mask_mels")
        return {name: value for name, value in settings.items() if name not in unseen}

    def for_frames(self, frames: int, trained: int) -> Self:
        """Return settings whose log-mel frames last as long as in training, to 1 %.

        With `align: span` the sound of a view is resampled to `frames` of these settings, whatever it lasts. The other
        alignments have 10 ms per log-mel frame in any case.

        Raises:
            ValueError: the view would have fewer than 8 log-mel frames, or no whole number is near enough.
        """
        if self.align != "span" or frames == trained:
            return self
        whole = _log_mel_frames(self.frames, frames, trained)
        if whole is None:
            near = next(
                more for more in range(frames + 1, 100 * trained) if _log_mel_frames(self.frames, more, trained)
            )
            raise ValueError(
                f"{frames} frames cannot keep the time scale of the sound: with audio.align span, a training view has "
                f"{self.frames} log-mel frames for {trained} video frames, so this one would have "
                f"{self.frames * frames / trained:g}, but it must be at least {LEAST_FRAMES}, and whole to 1 %. Give "
                f"{near} frames, for example"
            )
        return self.model_copy(update={"frames": whole})

    def time_scale(self, frames: int) -> float | None:
        """Return the video frames that a log-mel frame lasts with `align: span`; with others it lasts 10 ms."""
        return frames / self.frames if self.align == "span" else None


def _log_mel_frames(log_mel: int, frames: int, trained: int) -> int | None:
    """Return the log-mel frames of `frames` video frames if `trained` ones have `log_mel`; None if 1 % away, or few."""
    exact = log_mel * frames / trained
    whole = round(exact)
    return whole if whole >= LEAST_FRAMES and abs(whole / exact - 1) <= 0.01 else None


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
    word="sound",
)
