"""Write a configuration as YAML with the description of every setting as a comment."""

import types
import typing
from typing import Any, Literal

import yaml
from pydantic import BaseModel


def commented_yaml(config: BaseModel, notes: str = "") -> str:
    """Return the configuration as YAML, with the description of every key as a comment."""
    lines = [f"# {line}".rstrip() for line in notes.splitlines()]
    lines += _commented(config, 0)
    return "\n".join(lines) + "\n"


def _commented(section: BaseModel, depth: int) -> list[str]:
    lines: list[str] = []
    indent = "  " * depth
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            lines += ["", f"{indent}# {field.description}", f"{indent}{name}:", *_commented(value, depth + 1)]
            continue
        if isinstance(value, dict) and any(isinstance(entry, BaseModel) for entry in value.values()):
            set_values = {key: entry.model_dump(mode="json", exclude_defaults=True) for key, entry in value.items()}
            text = yaml.safe_dump({name: set_values}, default_flow_style=None, sort_keys=False, width=1000)
            lines += ["", f"{indent}# {field.description}", *(f"{indent}{line}" for line in text.splitlines())]
            continue
        plain = section.model_dump(mode="json")[name]
        text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1000).removesuffix("\n")
        allowed = _allowed(field.annotation)
        note = f"{field.description}{f' [{allowed}]' if allowed else ''}"
        lines.append(f"{indent}{name}: {text.removesuffix('...').strip()}  # {note}")
    return lines


def _allowed(annotation: Any) -> str:
    """Return the choices of a Literal as text."""
    if isinstance(annotation, types.UnionType):
        return ""
    if typing.get_origin(annotation) is Literal:
        return " | ".join(map(str, typing.get_args(annotation)))
    return ""
