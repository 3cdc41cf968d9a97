"""What a modality is: everything that is particular to one, from its file in the tar to its colour in a report."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import AfterValidator, Field

from shards.section import Section, hashed_settings
from shards.settings import Modality as StoredModality

if TYPE_CHECKING:
    import numpy as np
    import torch

Row: TypeAlias = Mapping[str, Any]
# Where a view lies: at random, in the middle (None), or in time from a frame on (and in space in the middle).
Where: TypeAlias = "np.random.Generator | int | None"

WEIGHTS_NOTE = (
    "start from these weights instead of random ones: a .safetensors of xdc, or a .pth or .pt with a state dict; "
    "relative to this file. null: random"
)


def _named_like_weights(path: str) -> str:
    if Path(path).suffix not in (".safetensors", ".pth", ".pt"):
        raise ValueError(
            f"{path!r} is no file of weights. Allowed: .safetensors as xdc writes it, or .pth or .pt with a state dict"
        )
    return path


class ModalitySettings(Section):
    """What the section of every modality has. A modality's own class gives `encoder` its default."""

    encoder: str = Field(description="the encoder's name, or package.module:function")
    weights: Annotated[str, AfterValidator(_named_like_weights)] | None = Field(None, description=WEIGHTS_NOTE)

    def view_settings(self, training: bool) -> dict[str, Any]:
        """Return the settings that decide a view, in training or in extraction, as JSON values; they are hashed.

        A subclass leaves out, or sets to one value, what its view does not heed in extraction.
        """
        return hashed_settings(self, exclude={"weights"})


@dataclass(frozen=True)
class Modality:
    """One modality. Light to import: torch is loaded with `module`, when the first view is made.

    name: also that of its section in the configuration. about: the comment above that section.
    settings: the class of the section; every field has a default.
    stored: what a source must have and a corpus must store. member: the clip's file in the tar, "mp4" or "flac".
    columns: of the corpus's index, what `view` reads of a row.
    module: the module with the two functions that `view` and `normalise` call, imported when they are first called:
        view(data: bytes, row, settings, frames: int, where) -> Tensor, one clip's
        normalise(batch: Tensor, settings) -> Tensor
    memory_format: the name in torch of the one in which the channels of one place lie side by side.
    colour: in charts, #rrggbb.
    version: raised when the same settings would give another view; it is hashed from 2 on.
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

    def view(self, data: bytes, row: Row, settings: ModalitySettings, frames: int, where: Where) -> "torch.Tensor":
        """Decode a clip's member and return one view of it: random with a generator (training), the centre with None
        (extraction), or from a frame on (evaluation).

        The views of all modalities that have the same `where` cover the same `frames` frames of the clip.

        Raises:
            MediaError: the member does not decode.
        """
        view: torch.Tensor = import_module(self.module).view(data, row, settings, frames, where)
        return view

    def normalise(self, batch: "torch.Tensor", settings: ModalitySettings) -> "torch.Tensor":
        """Make a batch of views [B, ...], on any device, what the encoder takes: float32 [B, ...]."""
        made: torch.Tensor = import_module(self.module).normalise(batch, settings)
        return made

    @property
    def channels_last(self) -> "torch.memory_format":
        """Return the memory format of a batch in which the channels of one place lie side by side."""
        import torch

        memory_format: torch.memory_format = getattr(torch, self.memory_format)
        return memory_format


def view_start(available: int, wanted: int, where: Where) -> int:
    """Return where a view of `wanted` begins among `available`: anywhere (temporal jitter), in the middle, or as said.

    A view that is longer than what is available begins at 0.
    """
    room = max(0, available - wanted)
    if where is None:
        return room // 2
    return min(where, room) if isinstance(where, int) else int(where.integers(room + 1))
