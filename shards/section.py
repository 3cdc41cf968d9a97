"""The base class of all sections of settings, and the fields that enter fingerprints."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Refuse unknown keys, infinities and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Since:
    """Mark a field that was added after the first release: `Annotated[bool, Since("0.2.0")]`.

    While the field has its default it enters no fingerprint, so that directories of earlier versions stay fresh. The
    default must therefore mean the behaviour of earlier versions.
    """

    version: str


@dataclass(frozen=True)
class NotHashed:
    """Mark a field for a location or for execution only: it enters no fingerprint."""


def hashed_settings(section: BaseModel, exclude: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields that enter a fingerprint, as JSON values: all but `exclude`, NotHashed, and new defaults."""
    values = section.model_dump(mode="json")
    hashed: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        marks = {type(mark) for mark in field.metadata}
        newer = Since in marks and value == field.get_default(call_default_factory=True)
        if name not in exclude and NotHashed not in marks and not newer:
            hashed[name] = hashed_settings(value) if isinstance(value, BaseModel) else values[name]
    return hashed
