"""The description of an encoder, importable without torch, and the checks of the built encoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from shards.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder.

    name: the name in a configuration. modality: of its input. width: length of its feature; None: given by
    the network's attribute `width`. module: the module of its function; imported when the encoder is built.
    function: the function's name; "": the encoder's name. It has no arguments, unless `described`.
    filled: whether `build_encoder` initialises convolutions and batch norms as in VMZ. Otherwise the function draws the
    weights from torch's generator, which is seeded.
    described: whether the function has one argument: what describes the network, a folder or the tensors of a file.
    """

    name: str
    modality: str
    width: int | None
    module: str
    function: str = ""
    filled: bool = False
    described: bool = False

    def build(self, description: "Path | Mapping[str, Tensor] | None" = None) -> "nn.Module":
        """Return the network in float32, not yet initialised; see `build_encoder`.

        description: for an encoder that needs one (`described`); the tensors of a file of xdc describe its encoder.

        Raises:
            ConfigError: its module cannot be imported, has no such function, or that does not return an encoder.
        """
        from torch import nn

        function = self.function or self.name
        where = f"the encoder {self.name!r}"
        try:
            module = import_module(self.module)
        except Exception as error:  # The module may be a user's, whose import can raise any error.
            raise ConfigError(
                f"{where}: {self.module} cannot be imported: {type(error).__name__}: {error}. Install its package, or "
                "put the folder in which it lies on PYTHONPATH."
            ) from error
        if not callable(make := getattr(module, function, None)):
            raise ConfigError(f"{where}: {module.__file__} has no function {function!r}. Correct the name.")
        encoder = make(description) if self.described else make()
        if not isinstance(encoder, nn.Module):
            raise ConfigError(
                f"{where}: {self.module}:{function}() returns an object of type {type(encoder).__name__}, but a "
                "torch.nn.Module is needed."
            )
        width = getattr(encoder, "width", None)
        if not isinstance(width, int) or width < 1 or width != (self.width or width):
            raise ConfigError(
                f"{where}: its attribute `width` is {width!r}, but {self.width or 'a whole number'} is needed: the "
                "length of its feature."
            )
        return encoder.float()


def check_feature(feature: "Tensor", encoder: "nn.Module", clips: int) -> None:
    """Raise ConfigError if an encoder's output for a number of clips is not float [clips, width]."""
    wanted = [clips, int(encoder.width)]  # type: ignore[arg-type]
    shape = list(getattr(feature, "shape", ()))
    if shape != wanted:
        kind = type(encoder)
        made = shape if shape else f"an object of type {type(feature).__name__}"
        raise ConfigError(
            f"the encoder {kind.__module__}.{kind.__qualname__} maps {clips} views to {made}, but {wanted} is needed: "
            "a feature per clip, as wide as the attribute `width` says, without a head."
        )
