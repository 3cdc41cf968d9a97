"""The settings of a corpus of audio-visual digits."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

SAMPLE_RATE = 16000  # Hz, mono: the rate of every clip's sound.


class DigitsSettings(BaseModel):
    """The settings of audio-visual digits: the number of clips, and the strength of the private factors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clips: int = Field(3000, ge=1, le=1_000_000, description="clips to learn from (split `train`)")
    validation_clips: int = Field(
        0, ge=0, le=1_000_000, description="clips of the split `validation`; its writing and speech then leave `train`"
    )
    test_clips: int = Field(0, ge=0, le=1_000_000, description="clips of the split `test`")
    seed: int = Field(0, ge=0, lt=2**32, description="clip i depends on the seed and on i, not on their number")
    seconds: float = Field(1.125, ge=0.5, le=10, description="length of a clip")
    fps: int = Field(8, ge=1, le=60, description="frames per second")
    side: int = Field(40, ge=16, le=512, multiple_of=2, description="pixels of both sides of the picture")
    digit_pixels: int = Field(21, ge=8, description="pixels of both sides of the written digit")
    nuisance: float = Field(
        0.15, ge=0, le=1, description="brightness of the textured background; that of the digit is 1"
    )
    gain_db: float = Field(5.0, ge=0, le=20, description="sound is louder or softer by up to this many dB")
    snr_db: tuple[float, float] = Field((10.0, 30.0), description="range of voice over noise, in dB")
    mismatched: float = Field(
        0.0, ge=0, le=1, description="share of clips whose sound says another digit than the one shown"
    )
    speech: Path | None = Field(None, description="a folder of the Free Spoken Digit Dataset; null: synthesised voices")
    workers: int | None = Field(None, ge=1, description="processes; null: one per core")

    @model_validator(mode="after")
    def _ranges(self) -> "DigitsSettings":
        if self.digit_pixels >= self.side:
            raise ValueError(
                f"digit_pixels ({self.digit_pixels}) must be less than side ({self.side}): the digit moves"
            )
        low, high = self.snr_db
        if not -20 <= low <= high <= 80:
            raise ValueError(f"snr_db ({low:g}, {high:g}) must be (low, high) with -20 <= low <= high <= 80")
        return self

    @property
    def clips_by_split(self) -> dict[str, int]:
        """Return the number of clips of each split."""
        return {"train": self.clips, "validation": self.validation_clips, "test": self.test_clips}

    @property
    def validated(self) -> bool:
        """Return whether some writing and speech is reserved for validation."""
        return self.validation_clips > 0

    @property
    def frames(self) -> int:
        """Return the number of frames of a clip."""
        return max(1, round(self.seconds * self.fps))

    @property
    def samples(self) -> int:
        """Return the number of sound samples of a clip, at 16 kHz."""
        return round(self.seconds * SAMPLE_RATE)
