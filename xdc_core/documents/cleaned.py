"""cleaned.json: which files of a committed directory `xdc clean` has removed. It is written before the first is."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import ValidationError

from xdc_core.documents.document import Document, write_document

FILE_NAME = "cleaned.json"


class Cleaned(Document):
    """What was removed.

    patterns: of the names of the files. files, bytes: how many, and their size. at: when, ISO 8601, UTC.
    """

    patterns: list[str]
    files: int
    bytes: int
    at: str

    def covers(self, name: str) -> bool:
        """Return whether a file of the directory was removed, or is to be."""
        return covered(name, self.patterns)


def covered(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a file's name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def read_cleaned(directory: Path) -> Cleaned | None:
    """Read cleaned.json of a committed directory; None if it is missing or damaged: nothing then counts as removed."""
    try:
        return Cleaned.model_validate_json((directory / FILE_NAME).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def write_cleaned(directory: Path, cleaned: Cleaned) -> None:
    """Write cleaned.json into a committed directory."""
    write_document(directory / FILE_NAME, cleaned)
