"""What every section of settings has in common, and which of its fields decide what a stage writes."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Unknown keys are errors; infinities and NaN are no numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Since:
    """Marks a field that is newer than the first release: `Annotated[bool, Since("0.2.0")]`.

    While it has its default it enters no fingerprint, so that directories of earlier versions stay fresh. Its default
    must therefore mean what earlier versions did.
    """

    version: str


@dataclass(frozen=True)
class NotHashed:
    """Marks a field that says where things are or how to run: it enters no fingerprint."""


def hashed_settings(section: BaseModel, exclude: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields that enter a fingerprint, as JSON has them: all but `exclude`, NotHashed, and new defaults."""
    values = section.model_dump(mode="json")
    hashed: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        marks = {type(mark) for mark in field.metadata}
        newer = Since in marks and value == field.get_default(call_default_factory=True)
        if name not in exclude and NotHashed not in marks and not newer:
            hashed[name] = hashed_settings(value) if isinstance(value, BaseModel) else values[name]
    return hashed
