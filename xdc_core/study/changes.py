"""Changes of settings by their dotted names, and what may be added to a study that has begun."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from shards.errors import ConfigError
from shards.section import Since
from shards.store.manifest import MANIFEST
from xdc_core.config.load import load_preset, parse_section
from xdc_core.study.contenders import CONTENDERS, PROTECTED
from xdc_core.study.measures import probes_of
from xdc_core.study.settings import FILE_NAME, MAIN, StudySettings, load_study

RETRIEVAL_ORDER = (None, "never", "end", "rounds")


def set_value(values: dict[str, Any], name: str, value: Any) -> None:
    """Set a value by its dotted name, such as `train.lr`, in nested dictionaries.

    Raises:
        ConfigError: a part of the name before the last is of a setting that has no further ones.
    """
    *parents, key = name.split(".")
    for number, parent in enumerate(parents):
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise ConfigError(f"{name}: {'.'.join(parents[: number + 1])} has no settings. Correct the name.")
    values[key] = value


def without_newer(values: dict[str, Any], begun: BaseModel) -> dict[str, Any]:
    """Return the values of a preset without the newer settings (`Since`) that `begun` has at their defaults.

    begun: the settings of a run that has begun, perhaps before the preset set them; its directories stay what they are.
    """
    kept: dict[str, Any] = {}
    for name, value in values.items():
        field, there = type(begun).model_fields.get(name), getattr(begun, name, None)
        if isinstance(value, dict) and isinstance(there, BaseModel):
            kept[name] = without_newer(value, there)
            continue
        newer = field is not None and any(isinstance(mark, Since) for mark in field.metadata)
        if field is None or not newer or there != field.get_default(call_default_factory=True):
            kept[name] = value
    return kept


def has_begun(folder: Path) -> bool:
    """Return whether any stage is finished in the folder of a run, or of all runs of a study."""
    return next(folder.rglob(MANIFEST), None) is not None


def preset_of(study: StudySettings) -> str:
    """Return the name of the preset of a study's runs."""
    return study.preset or ("tiny" if study.own else "digits")


def choose_study(root: Path, choices: dict[str, Any]) -> StudySettings:
    """Return the study in `root` with these choices; nothing is written.

    To an existing study contenders, seeds, rounds and measurements can be added. While none of its stages is finished,
    every setting can be changed.

    Raises:
        ConfigError: the study has begun with other settings, or a value is wrong.
    """
    file = root / FILE_NAME
    if not file.exists():
        return parse_section(StudySettings, _default_contenders(choices) | choices, "the study")
    there = load_study(root)
    if not has_begun(root / "runs"):
        return parse_section(StudySettings, there.model_dump() | choices, "the study")
    own = there.own_contenders | choices.get("own_contenders", {})
    added = choices | ({"own_contenders": own} if "own_contenders" in choices else {})
    if isinstance(there.seeds, dict) and isinstance(choices.get("seeds"), dict):
        added["seeds"] = there.seeds | choices["seeds"]
    asked = parse_section(StudySettings, there.model_dump() | added, "the study")
    differing = [
        name for name in choices if getattr(there, name) != getattr(asked, name) and not _grows(name, there, asked)
    ]
    if differing:
        raise ConfigError(
            f"{file} exists already, with another {', '.join(differing)}. Choose another folder. (Contenders, seeds, "
            "rounds and measurements may be added, but none may be left out.)"
        )
    return asked


def _default_contenders(choices: dict[str, Any]) -> dict[str, Any]:
    """Return the default contenders with a preset that protects: all, with both forms of XDC as the main ones."""
    preset = choices.get("preset")
    if "contenders" in choices or preset is None or not load_preset(preset).get("train", {}).get("protect"):
        return {}
    return {"contenders": tuple(CONTENDERS), "main": (*MAIN, PROTECTED)}


def _grows(name: str, there: StudySettings, asked: StudySettings) -> bool:
    """Return whether one setting of a study only adds runs, rounds or measurements, or what the table says of them."""
    if name in ("contenders", "own_contenders"):
        return all(asked.rows.get(contender) == settings for contender, settings in there.rows.items())
    if name == "seeds":
        return all(asked.seeds_of(contender) >= there.seeds_of(contender) for contender in there.rows)
    if name == "rounds":
        preset = there.change.get("rounds", load_preset(preset_of(there)).get("rounds", 0))
        return (asked.rounds or 0) >= (there.rounds or preset)
    if name == "labels":
        return asked.labels[: len(there.labels)] == there.labels
    if name == "probes":
        return set(probes_of(asked)) >= set(probes_of(there))
    if name == "every":
        return there.every % asked.every == 0
    if name == "retrieval":
        return RETRIEVAL_ORDER.index(asked.retrieval) > RETRIEVAL_ORDER.index(there.retrieval)
    return name == "main"
