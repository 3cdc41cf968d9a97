"""The description of a modality, from its file in the tar to its colour in a report."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeAlias

from pydantic import AfterValidator, Field

from shards.section import Section, hashed_settings
from shards.settings import Modality as StoredModality

if TYPE_CHECKING:
    import numpy as np
    import torch

    from shards.media.decode import StoredFrames

Row: TypeAlias = Mapping[str, Any]
# The position of a view: random, centred (None), or from a frame on (and spatially centred).
Where: TypeAlias = "np.random.Generator | int | None"

WEIGHTS_NOTE = (
    "start from these weights instead of random ones: a .safetensors of xdc, or a .pth or .pt with a state dict; "
    "relative to this file. null: random"
)


def _named_like_weights(path: str) -> str:
    if Path(path).suffix not in (".safetensors", ".pth", ".pt"):
        raise ValueError(
            f"{path!r} is not a file of weights. Allowed: .safetensors written by xdc, or .pth or .pt with a state dict"
        )
    return path


class ModalitySettings(Section):
    """The settings that all modalities have. A modality's class sets the default of `encoder`."""

    encoder: str = Field(description="the encoder's name, or package.module:function, or hf:MODEL")
    weights: Annotated[str, AfterValidator(_named_like_weights)] | None = Field(None, description=WEIGHTS_NOTE)

    # The settings that must be those of the encoder's training wherever it is used: with others its features are wrong.
    exact: ClassVar[tuple[str, ...]] = ()

    def view_settings(self, training: bool) -> dict[str, Any]:
        """Return the settings that decide a view, in training or in extraction, as JSON values for fingerprints.

        A subclass leaves out, or sets to one value, what its view does not use in extraction.
        """
        return hashed_settings(self, exclude={"weights"})

    def for_frames(self, frames: int, trained: int) -> Self:
        """Return the settings for views of `frames` video frames, if those of training have `trained`.

        Raises:
            ValueError: no settings give such views the time scale of training; the text says which `frames` do.
        """
        return self

    def time_scale(self, frames: int) -> float | None:
        """Return how many frames of a clip one step of the encoder's input lasts, for views of `frames` frames; None if
        its length does not depend on the clip's frame rate.
        """
        return None


@dataclass(frozen=True)
class Modality:
    """One modality. It is cheap to import: `module`, and with it torch, is imported with the first view.

    name: also of its section in the configuration. about: the comment above that section.
    settings: the class of the section; every field has a default.
    stored: what a source must have and a corpus must store. member: the clip's file in the tar, "mp4" or "flac".
    columns: those of the corpus's index that `view` needs; they are numbers (`NUMBERS` in xdc_core/data/clips.py).
    module: the module with the two functions that `view` and `normalise` call, imported when they are first called:
        view(data: bytes, row, settings, frames: int, where) -> Tensor, one clip's
        normalise(batch: Tensor, settings) -> Tensor
        and, where views have constants that no setting changes, for the encoder's file:
        recipe(settings) -> dict, these constants as JSON values by name
    memory_format: torch's name for the format with adjacent channels.
    colour: in charts, #rrggbb.
    version: to be raised if the same settings give another view; it is hashed from 2 on.
    by_groups: whether `view` also takes the groups of pictures (StoredFrames, shards/media/decode.py) that show the
        span of the view. The first number that it draws must then be the view's start (`view_start`).
    word: another name that commands take, such as "sound" for the modality `audio`; "": none.
    """

    name: str
    about: str
    settings: type[ModalitySettings]
    stored: StoredModality
    member: str
    columns: tuple[str, ...]
    module: str
    memory_format: str
    colour: str
    version: int = 1
    by_groups: bool = False
    word: str = ""

    def span(self, row: Row, frames: int, where: Where) -> tuple[int, int] | None:
        """Return the first frame that a view shows and the one after its last; None if it may need all of the member.

        A generator is not advanced.
        """
        if not self.by_groups:
            return None
        wanted = min(frames, row["frames"])
        first = view_start(row["frames"], wanted, copy.deepcopy(where))
        return first, first + wanted

    def view(
        self, data: "bytes | StoredFrames", row: Row, settings: ModalitySettings, frames: int, where: Where
    ) -> "torch.Tensor":
        """Decode a clip's member, or with `by_groups` a part of it, and return one view of it: random with a generator
        (training), the centre with None (extraction), or from a frame on (evaluation).

        The views of all modalities that have the same `where` cover the same `frames` frames of the clip.

        Raises:
            MediaError: the member does not decode.
        """
        view: torch.Tensor = import_module(self.module).view(data, row, settings, frames, where)
        return view

    def normalise(self, batch: "torch.Tensor", settings: ModalitySettings) -> "torch.Tensor":
        """Convert a batch of views [B, ...], on any device, to the encoder's input: float32 [B, ...]."""
        made: torch.Tensor = import_module(self.module).normalise(batch, settings)
        return made

    def recipe(self, settings: ModalitySettings) -> dict[str, Any]:
        """Return the constants of views with these settings, which no setting changes, as JSON values by name."""
        recipe = getattr(import_module(self.module), "recipe", None)
        return dict(recipe(settings)) if recipe else {}

    @property
    def channels_last(self) -> "torch.memory_format":
        """Return the memory format of a batch with adjacent channels."""
        import torch

        memory_format: torch.memory_format = getattr(torch, self.memory_format)
        return memory_format


def view_start(available: int, wanted: int, where: Where) -> int:
    """Return the first of `wanted` frames among `available`: random (temporal jitter), centred, or as given.

    A view with more frames than available begins at 0.
    """
    room = max(0, available - wanted)
    if where is None:
        return room // 2
    return min(where, room) if isinstance(where, int) else int(where.integers(room + 1))
