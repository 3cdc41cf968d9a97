"""The base class of all JSON documents: how they are checked, read and written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from shards.errors import StageError
from shards.store.checked_read import read_stored_json, remedy_of
from shards.store.files import write_json

# An integer in a file stays an integer: a document that is read and written again has the same bytes.
Number = int | float


class Document(BaseModel):
    """A JSON object of a stored file.

    Unknown keys are kept, so that documents of later versions can be read. Fields with a default may be missing, as in
    documents of earlier versions. Only the given fields are written, in the order in which they were given.
    """

    model_config = ConfigDict(
        ser_json_inf_nan="constants", extra="allow", frozen=True, populate_by_name=True, protected_namespaces=()
    )

    _order: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _note_order(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        document = validate(values)
        if isinstance(values, Mapping):
            document._order = tuple(values)
        return document

    @model_serializer(mode="wrap")
    def _in_order(self, serialize: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        values: dict[str, Any] = serialize(self)
        return {name: values[name] for name in self._order if name in values} | values

    def content(self) -> dict[str, Any]:
        """Return the content of the file: dictionaries, lists, strings and numbers."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


AnyDocument = TypeVar("AnyDocument", bound=Document)


def read_document(kind: type[AnyDocument], path: Path, stage: str) -> AnyDocument:
    """Read a JSON document that `stage` wrote.

    Raises:
        StageError: it is missing, damaged, or lacks a key; the text names the stage that rebuilds it.
    """
    try:
        return kind.model_validate(read_stored_json(path, stage))
    except ValidationError as error:
        problem = error.errors()[0]
        location = ".".join(map(str, problem["loc"])) or "the document"
        raise StageError(f"{path} cannot be read ({location}: {problem['msg']}). {remedy_of(path, stage)}") from error


def write_document(path: Path, document: Document) -> None:
    """Write a document as indented JSON, atomically. Raises ValueError for NaN and infinity."""
    write_json(path, document.content())
