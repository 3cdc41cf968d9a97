"""The settings of a corpus."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from shards.section import NotHashed, Positive, Section, Since, hashed_settings

Modality = Literal["video", "audio"]
ALL_MODALITIES: tuple[Modality, ...] = ("video", "audio")


def is_url(path: str) -> bool:
    """Return whether a path of the configuration is in an object store."""
    return path.startswith("s3://")


class CropSettings(Section):
    """The part of the picture that is stored: a rectangle, or a square round the motion inside the rectangle.

    Numbers are of the picture as players show it, turned upright, in its stored pixels, or shares of its width and
    height (of its shorter side for `square`).
    """

    unit: Literal["pixels", "shares"] = Field("pixels", description="of all numbers here; shares are from 0 to 1")
    x: float = Field(0.0, ge=0, description="left edge of the rectangle")
    y: float = Field(0.0, ge=0, description="upper edge of the rectangle")
    width: Positive | None = Field(None, description="null: to the picture's right edge")
    height: Positive | None = Field(None, description="null: to the picture's lower edge")
    square: Positive | None = Field(
        None,
        description="null: the rectangle is stored. Else a square with this side, round the centre of the motion "
        "inside the rectangle",
    )
    motion_of: Literal["recording", "clip"] = Field(
        "recording", description="where motion is measured for the square: in the file's first 30 s, or in every clip"
    )

    @model_validator(mode="after")
    def _inside(self) -> "CropSettings":
        for start, size in (("x", "width"), ("y", "height")):
            first, length = getattr(self, start), getattr(self, size)
            if self.unit == "shares" and (first >= 1 or first + (length or 0.0) > 1 + 1e-9):
                raise ValueError(
                    f"{start} ({first:g}) and {size} ({length or 1 - first:g}) are shares of the picture, and end "
                    "outside of it: together at most 1"
                )
        if self.unit == "shares" and (self.square or 0.0) > 1:
            raise ValueError(f"square ({self.square:g}) is a share of the picture's shorter side: at most 1")
        return self


class CorpusSettings(Section):
    """The settings with which raw videos are cut into clips."""

    path: Annotated[str, NotHashed()] = Field(
        "corpora/videos",
        description="the corpus directory; relative to this file. Or s3://BUCKET/FOLDER: it is written there, or, "
        "without videos, read; see docs/object-stores.md",
    )
    videos: Annotated[str | None, NotHashed()] = Field(
        None,
        description="a folder of videos, or a CSV or Parquet manifest (columns path, start_s, end_s, split, "
        "label...); relative to this file. null: use the existing corpus",
    )
    features: Annotated[dict[str, str], NotHashed()] = Field(
        {},
        description="instead of videos: features that somebody else computed, a folder of Parquet files (columns key, "
        "feature...) per modality; relative to this file. Nothing is trained; see docs/outside.md",
    )
    layout: Annotated[str | None, Since("0.2.0")] = Field(
        None,
        description="null: a folder or a manifest. Else videos is a data set in its official layout, which gives the "
        "labels: ucf101, hmdb51, esc50, esc10, dcase2014, kinetics, audioset, vggsound, grid, grid_recordings, "
        "folder (of classes), manifest (with splits)",
    )
    label_from_folder: bool = Field(
        False, description="for a folder of videos: the name of a file's folder is its label (used in reports)"
    )
    learn_splits: Annotated[list[str] | None, NotHashed()] = Field(
        None, description="splits to learn from; null: every clip. Other clips get features and labels only"
    )
    modalities: Annotated[tuple[Modality, ...], Since("0.2.0")] = Field(
        ALL_MODALITIES,
        min_length=1,
        description="what every clip must have and what is stored of it: [video, audio], or one of them alone",
    )
    clip_seconds: Positive = Field(10.0, description="longer videos are cut into clips of this length")
    segment_seconds: Annotated[Positive | None, Since("0.2.0")] = Field(
        None,
        description="null: a part of a file with an end, named by a manifest or a layout, is cut as it is; else a "
        "window of this length round its middle",
    )
    min_seconds: Positive = Field(1.0, description="a shorter video, or a shorter rest of one, is rejected")
    cut_at_shots: Annotated[bool, Since("0.2.0")] = Field(
        False,
        description="cut videos at shot boundaries first; a shot shorter than min_seconds is rejected. To find the "
        "boundaries, all pictures are decoded once more",
    )
    short_side: int = Field(128, ge=16, le=4096, description="pixels of the shorter side of a stored clip")
    crop: Annotated[CropSettings | None, Since("0.2.0")] = Field(
        None, description="null: the whole picture; else the part of it that is scaled and stored; see docs/media.md"
    )
    fps: Positive = Field(30.0, description="frames per second of a stored clip (constant)")
    gop: int = Field(8, ge=1, description="frames between key frames: small means quick random access")
    crf: int = Field(18, ge=0, le=51, description="x264 quality; lower is better and larger")
    sample_rate: int = Field(16000, ge=4000, le=192000, description="Hz, mono")
    high_pass_hz: Positive | None = Field(
        None, description="cut sound below this frequency (for recordings with drift or rumble); null: leave it"
    )
    silence: Literal["reject", "keep"] = Field(
        "reject", description="what to do with clips whose sound is digital silence"
    )
    clips_per_shard: int = Field(1000, ge=1, description="clips per tar")
    shuffle_seed: int = Field(0, description="seed of the order in which clips are put into shards")
    append: Annotated[bool, NotHashed()] = Field(
        False,
        description="false: when sources are added, removed or changed, all clips are cut again; true: only new ones, "
        "into new shards; see docs/growing.md",
    )
    max_masked_share: Annotated[float, NotHashed()] = Field(
        0.5, ge=0, le=1, description="with append: stop when more than this share of the clips that exist is masked"
    )
    max_reject_share: Annotated[float, NotHashed()] = Field(
        0.5, ge=0, le=1, description="stop when more than this share of the clips is rejected"
    )
    workers: Annotated[int | None, NotHashed()] = Field(
        None, ge=1, description="decoding processes of a stage, or of each of its workers; null: one per core"
    )
    clip_timeout_s: Annotated[Positive, NotHashed()] = Field(
        120.0, description="a file or clip that takes longer is rejected"
    )
    clip_cpu_s: Annotated[Positive, NotHashed()] = Field(
        120.0, description="a file or clip that needs more processor time is rejected"
    )
    clip_memory_mb: Annotated[int, NotHashed()] = Field(
        2048,
        ge=64,
        description="a file or clip that needs more memory is rejected; each of the workers may use as much",
    )
    max_pixels: Annotated[int, Since("0.2.0")] = Field(
        8192 * 4320, ge=1, description="a video with a larger picture is rejected"
    )
    max_fps: Annotated[Positive, Since("0.2.0")] = Field(
        1000.0, description="a video with more frames per second is rejected"
    )
    max_hours: Annotated[Positive, Since("0.2.0")] = Field(24.0, description="a longer video is rejected")
    max_clip_mb: Annotated[Positive, Since("0.2.0")] = Field(
        256.0, description="a clip that is larger when it is encoded is rejected"
    )

    @field_validator("modalities")
    @classmethod
    def _in_one_order(cls, modalities: tuple[Modality, ...]) -> tuple[Modality, ...]:
        if len(set(modalities)) < len(modalities):
            raise ValueError(f"{', '.join(modalities)}: a modality is named twice")
        return tuple(name for name in ALL_MODALITIES if name in modalities)

    @model_validator(mode="after")
    def _fit_together(self) -> "CorpusSettings":
        if self.layout is not None and self.label_from_folder:
            raise ValueError(f"layout {self.layout} gives the labels: set label_from_folder to false")
        media = {"videos": self.videos, "layout": self.layout, "append": self.append, "path": is_url(self.path)}
        if self.features and (found := [name for name, given in media.items() if given]):
            raise ValueError(
                f"features are given instead of media: set {' and '.join(found)} to the default, and path to a local "
                "directory"
            )
        if self.min_seconds > self.clip_seconds:
            raise ValueError(
                f"min_seconds ({self.min_seconds}) is larger than clip_seconds ({self.clip_seconds}): "
                "no clip could ever be kept"
            )
        if self.cut_at_shots and "video" not in self.modalities:
            raise ValueError("cut_at_shots needs pictures: add video to modalities, or set cut_at_shots to false")
        if self.high_pass_hz is not None and self.high_pass_hz >= self.sample_rate / 2:
            raise ValueError(
                f"high_pass_hz ({self.high_pass_hz}) must be below half of sample_rate ({self.sample_rate}): "
                "no sound would be left"
            )
        if self.segment_seconds is not None and not self.min_seconds <= self.segment_seconds <= self.clip_seconds:
            raise ValueError(
                f"segment_seconds ({self.segment_seconds:g}) must be from min_seconds ({self.min_seconds:g}) to "
                f"clip_seconds ({self.clip_seconds:g}): a window is one clip"
            )
        return self


def for_streams(settings: CorpusSettings, needed: Collection[Modality]) -> CorpusSettings:
    """Return the settings of a corpus for clips that need no other streams than these."""
    return settings.model_copy(
        update={
            "modalities": tuple(name for name in settings.modalities if name in needed),
            "cut_at_shots": settings.cut_at_shots and "video" in needed,
        }
    )


# Of the settings of a stored corpus, those that decide neither which clips there are nor their bytes.
NOT_OF_CLIPS = ("layout", "label_from_folder", "clips_per_shard", "shuffle_seed")


def clip_part(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings of a corpus that decide its clips, from `stored_part` or a manifest of a corpus."""
    return {name: value for name, value in stored.items() if name not in NOT_OF_CLIPS}


def stored_part(settings: CorpusSettings) -> dict[str, Any]:
    """Return the settings that enter the corpus's fingerprint."""
    return hashed_settings(settings)
