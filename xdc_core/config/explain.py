"""Explain pydantic's errors, one line per error."""

import difflib
import reprlib
import types
import typing
from typing import Any

from pydantic import BaseModel

from xdc_core.config.clustering import known_label_sources
from xdc_core.config.schema import Config
from xdc_core.modalities.registry import MODALITIES

# What was expected, for pydantic's errors whose own words are those of Python.
_EXPECTED = {
    "tuple_type": "A list was expected, such as [a, b]",
    "list_type": "A list was expected, such as [a, b]",
    "dict_type": "Names and values were expected, such as {a: 1, b: 2}",
    "model_type": "Names and values were expected, such as {a: 1, b: 2}",
}


def nearest_hint(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f" is unknown. Did you mean {near[0]!r}?" if near else " is unknown."


def _section_at(section: Any, parts: tuple[int | str, ...]) -> type[BaseModel] | None:
    for part in parts:
        if typing.get_origin(section) is dict:  # Of sections by name.
            section = typing.get_args(section)[1]
        elif _is_section(section) and part in section.model_fields:
            section = section.model_fields[str(part)].annotation
            if isinstance(section, types.UnionType):  # A section or null.
                section = next(filter(_is_section, typing.get_args(section)), section)
        else:
            return None
    return section if _is_section(section) else None


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def explain_problem(problem: Any, whole: type[BaseModel]) -> str:
    """Return one line for one of pydantic's errors."""
    location = tuple(part for part in problem["loc"] if part != "[key]")
    name = ".".join(map(str, location))
    if problem["type"] == "string_pattern_mismatch" and "[key]" in problem["loc"]:
        return f"{name}: a name has small letters, digits, - and _ only."
    if problem["type"] == "missing":
        return f"{name}: this key is missing."
    if problem["type"] == "extra_forbidden" or "[key]" in problem["loc"]:
        if issubclass(whole, Config) and len(location) == 1 and location[0] in MODALITIES:
            return f"{name}: this section is of a modality that the run does not learn: add {name} to modalities."
        section = _section_at(whole, location[:-1])
        keys = list(section.model_fields) if section else list(known_label_sources())
        return f"{name}: this key{nearest_hint(str(location[-1]), keys)} Keys here: {', '.join(keys)}."
    message = _EXPECTED.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{name}: {message}." if name else f"{message}."
    return f"{name}: {_shown(problem['input'])} is not allowed. {message}."


def _shown(value: object) -> str:
    """Return a short form of a value: a few lines of YAML can expand to billions of entries."""
    whole = reprlib.Repr()
    whole.maxstring = whole.maxother = whole.maxlong = 200
    return whole.repr(value)
