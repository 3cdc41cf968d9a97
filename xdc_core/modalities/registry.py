"""The modalities by name: those of the paper, and those of installed packages."""

from typing import Annotated

from pydantic import AfterValidator

from shards.errors import ConfigError
from shards.registry import Registry
from xdc_core.modalities.audio import AUDIO
from xdc_core.modalities.modality import Modality
from xdc_core.modalities.video import VIDEO

BUILT_IN = (VIDEO.name, AUDIO.name)
MODALITIES: Registry[Modality] = Registry(
    "modality", "xdc.modalities", {modality.name: modality for modality in (VIDEO, AUDIO)}, of=Modality
)


# The modules of the built-in modalities' views, which are imported with the first view.
VIEW_MODULES = (VIDEO.module, AUDIO.module)


def known_modality(name: str) -> str:
    """Return the name of a modality. Raises ValueError if it is unknown; the text lists all."""
    try:
        MODALITIES.check(name)
    except ConfigError as error:
        raise ValueError(str(error).removesuffix(".")) from None
    return name


ModalityName = Annotated[str, AfterValidator(known_modality)]


def in_order(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of modalities in the registry's order, in which features are concatenated.

    Raises:
        ValueError: a name occurs twice.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"{', '.join(names)}: a modality is named twice")
    return tuple(name for name in (BUILT_IN if set(names) <= set(BUILT_IN) else MODALITIES) if name in names)
