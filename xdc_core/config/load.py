"""Read a configuration from YAML: xdc.yaml, presets, and evaluate.yaml."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from shards.command import command
from shards.errors import ConfigError
from xdc_core.config.explain import explain_problem, nearest_hint
from xdc_core.config.model import config_model
from xdc_core.config.schema import FORMAT, Config
from xdc_core.encoders.registry import check_encoder
from xdc_core.modalities.registry import BUILT_IN

AnySection = TypeVar("AnySection", bound=BaseModel)


PRESETS = Path(__file__).parent / "presets"


FILE_NAME = "xdc.yaml"


EVALUATIONS_FILE = "evaluate.yaml"


# Errors of PyYAML for invalid texts: its own, and Python's for values such as 2001-99-99 or !!bool x. Endless nesting
# ends in a RecursionError.
_NO_YAML = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


def preset_names() -> list[str]:
    """Return the names of the presets in the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_preset(name: str, modalities: Sequence[str] = ()) -> dict[str, Any]:
    """Return the values that a preset sets; other settings have their defaults.

    `modalities` without a number of clusters in the preset get that of its largest label source.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in preset_names():
        hint = nearest_hint(name, preset_names())
        raise ConfigError(f"the preset {name!r}{hint} There are: {', '.join(preset_names())}.")
    values = read_yaml(PRESETS / f"{name}.yaml")
    k = values["cluster"]["k"]
    most = max(k.values(), key=lambda value: max(value) if isinstance(value, list) else value)
    values["cluster"]["k"] = dict.fromkeys(modalities, most) | k if modalities else k
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping.

    Raises:
        ConfigError: it is missing, not valid YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist. Create a run with: {command('xdc', 'init', path.parent)}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except _NO_YAML as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict | None):
        raise ConfigError(f"{path} holds a {type(values).__name__}, but keys and values were expected.")
    return values or {}


def parse_section(section: type[AnySection], values: dict[str, Any], where: str) -> AnySection:
    """Check values and fill in defaults.

    Raises:
        ConfigError: a key or value is wrong; the text lists all of them, with similar keys and allowed values.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        lines = [explain_problem(problem, section) for problem in error.errors()]
        raise ConfigError(f"{where}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def parse_config(values: dict[str, Any], where: str) -> Config:
    """Return a run's configuration from its values.

    Raises ConfigError as `parse_section`, for unknown encoders, and for a format of a newer version of xdc.
    """
    found = values.get("format", FORMAT)
    if type(found) is int and found > FORMAT:
        raise ConfigError(
            f"{where} has format {found}, and this version of xdc reads formats up to {FORMAT}: a newer version has "
            "written it. Use that version (pip install --upgrade xdc-pipeline), or make a run with this one: xdc init"
        )
    config = parse_section(config_model(values), values, where)
    for modality in dict.fromkeys((*BUILT_IN, *config.modalities)):
        try:
            check_encoder(getattr(config, modality).encoder, modality)
        except ConfigError as error:
            raise ConfigError(f"{where}:\n  {modality}.encoder: {error}") from None
    return config


def load_config(path: Path) -> Config:
    """Read and check a run's xdc.yaml, and evaluate.yaml beside it with the evaluations added by `xdc eval`."""
    return check_file(path, read_yaml(path))


def check_file(path: Path, values: dict[str, Any]) -> Config:
    """Return the configuration of a run whose xdc.yaml, at `path`, has or would have these values. They stay unchanged.

    Raises ConfigError as `parse_config`; evaluate.yaml beside it is read and checked, too.
    """
    values = dict(values)
    asked = path.with_name(EVALUATIONS_FILE)
    if not asked.exists():
        return parse_config(values, str(path))
    for section, entries in read_yaml(asked).items():
        if section not in ("datasets", "evaluate"):
            raise ConfigError(f"{asked}: {section!r} is not allowed here, only datasets and evaluate.")
        both = [values.get(section) or {}, entries or {}]
        for file, part in zip((path, asked), both, strict=True):
            if not isinstance(part, dict):
                raise ConfigError(f"{file}: {section} holds a {type(part).__name__}, but names were expected.")
        values[section] = both[0] | both[1]
    return parse_config(values, f"{path}, with {asked.name}")
