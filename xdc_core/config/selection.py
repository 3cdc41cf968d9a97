"""Thresholds for the clips to learn from: what is measured of a clip says whether it may weaken the pairing."""

from typing import Annotated, Any

from pydantic import Field

from shards.section import Section, Since, hashed_settings


class SelectSettings(Section):
    """Clips that clustering is fitted to and training learns from. All others get features and labels only."""

    min_motion: Annotated[float | None, Since("0.2.0")] = Field(
        None, ge=0, description="leave out clips with less motion: change of luma (0 to 255) a second; null: none"
    )
    min_level_db: Annotated[float | None, Since("0.2.0")] = Field(
        None, ge=-120, le=0, description="leave out clips whose sound is quieter: dB (RMS) re full scale; null: none"
    )
    max_shots: Annotated[int | None, Since("0.2.0")] = Field(
        None, ge=1, description="leave out clips with more shots; 1: those with a shot boundary. null: none"
    )

    @property
    def thresholds(self) -> dict[str, float]:
        """Return the thresholds that are set, by their names."""
        return {name: value for name, value in self.model_dump().items() if value is not None}

    def hashed(self) -> dict[str, Any]:
        """Return what enters the fingerprint of a stage that reads the thresholds: nothing if none is set."""
        hashed = hashed_settings(self)
        return {"select": hashed} if hashed else {}


ALL_CLIPS = SelectSettings()
