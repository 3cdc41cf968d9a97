"""The class of a run's configuration: `Config`, with a section for each modality of an installed package."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import Field, create_model

from shards.errors import ConfigError
from xdc_core.config.evaluation import CORPUS
from xdc_core.config.methods import JOINT, TRUTH
from xdc_core.config.schema import Config
from xdc_core.modalities.modality import Modality
from xdc_core.modalities.registry import BUILT_IN, MODALITIES


def config_model(values: Mapping[str, Any]) -> type[Config]:
    """Return the class for a configuration's values: that with the sections of the modalities that they name.

    What is wrong with the names is left for the class to find.

    Raises:
        ConfigError: a modality's package cannot be loaded, or its name has another meaning.
    """
    named = values.get("modalities")
    names = set(named) if isinstance(named, list | tuple) and all(isinstance(name, str) for name in named) else set()
    added = tuple(sorted(name for name in names - set(BUILT_IN) if name in MODALITIES))
    return _with_sections(added) if added else Config


class _ExtendedConfig(Config):
    """A configuration with more sections. Its class is made where it is needed: a pickle has the values instead."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.model_dump(),)


def _restore(values: dict[str, Any]) -> Config:
    return config_model(values).model_validate(values)


@lru_cache
def _with_sections(names: tuple[str, ...]) -> type[Config]:
    sections: dict[str, Any] = {}
    for name in names:
        modality = MODALITIES[name]
        _check_name(name, modality)
        sections[name] = (modality.settings, Field(modality.settings.model_validate({}), description=modality.about))
    return create_model("Config", __base__=_ExtendedConfig, __doc__=Config.__doc__, **sections)


def _check_name(name: str, modality: Modality) -> None:
    giver = f"the modality {name!r} of {MODALITIES.distribution(name)}"
    if modality.name != name:
        raise ConfigError(f"{giver} calls itself {modality.name!r}. Give its entry point the same name.")
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in (*Config.model_fields, JOINT, TRUTH, CORPUS):
        raise ConfigError(
            f"{giver} needs another name: one of small letters, digits and _ that is no key of xdc.yaml, "
            f"nor {JOINT}, {TRUTH} or {CORPUS}."
        )
