"""The manifest of a committed directory: its files, and everything it was made from. It is written last."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from shards.errors import ConfigError
from shards.store.files import CARD, PARTS, sha256_of, write_json
from shards.store.receipt import UNITS

MANIFEST = "manifest.json"
# 2: the directory has parts, in a folder of their own (PARTS of shards/store/files.py). 1, or no number: it has no such
# folder; if it has parts, they lie beside the other files.
FORMAT = 2


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size in bytes and sha256 of one file of a committed directory."""

    size: int
    sha256: str


class Manifest(BaseModel):
    """The contents of manifest.json: the files of a committed directory, and everything it was made from."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1, 2] = 1
    stage: str
    modality: str | None = None
    round: int | None = None
    version: int
    fingerprint: str
    inputs: dict[str, str] = {}
    settings: dict[str, Any] = {}
    rows: int = 0
    rejects: int = 0
    seconds: float
    cpu_seconds: float | None = None
    started: str
    finished: str
    versions: dict[str, str] = {}
    summary: dict[str, Any] = {}
    files: dict[str, FileEntry] = {}
    seal: str | None = None  # sha256 of all other fields; None in older manifests.


def fingerprint(value: object) -> str:
    """Return the sha256, as 64 hex digits, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: object) -> str:
    """Return the canonical JSON of `value` (sorted keys, no white space). Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def write_manifest(directory: Path, manifest: Manifest) -> Manifest:
    """Write manifest.json with a seal: the sha256 of all other fields, so that any change is noticed.

    Its format follows from the files: earlier versions read what has no folder of parts. Returns the manifest with it.
    """
    number = FORMAT if any(name.split("/")[0] in PARTS for name in manifest.files) else 1
    manifest = manifest.model_copy(update={"format": number})
    content = json.loads(manifest.model_dump_json(exclude={"seal"}))
    write_json(directory / MANIFEST, content | {"seal": fingerprint(content)})
    return manifest


def read_manifest(directory: Path) -> Manifest | None:
    """Return the manifest of a committed directory; None if it is missing or damaged (the directory then counts as
    missing).

    Raises:
        ConfigError: a newer version of xdc has written it.
    """
    try:
        data = (directory / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parse_manifest(data, str(directory / MANIFEST))


def parse_manifest(data: bytes, where: str) -> Manifest | None:
    """Return the manifest in the bytes of a manifest.json; None if they are damaged. where: its path or URL.

    Raises:
        ConfigError: a newer version of xdc has written it.
    """
    try:
        manifest = Manifest.model_validate_json(data)
        content = json.loads(data)
        if manifest.seal is not None and content.pop("seal") != fingerprint(content):
            return None
    except ValueError:  # Also pydantic's ValidationError.
        _refuse_newer(data, where)
        return None
    return manifest.model_copy(update={"seal": None})


def _refuse_newer(data: bytes, where: str) -> None:
    """Raise ConfigError for an undamaged manifest of a newer format: its directory must not be made again."""
    try:
        content = json.loads(data)
        found, seal = content["format"], content.pop("seal")
        if type(found) is not int or found <= FORMAT or seal != fingerprint(content):
            return
    except (ValueError, TypeError, KeyError, AttributeError):
        return
    raise ConfigError(
        f"{where} has format {found}, and this version of xdc reads formats up to {FORMAT}: a newer version has "
        "written it. Nothing is changed. Use that version (pip install --upgrade xdc-pipeline), or give this one a "
        "directory of its own."
    )


def missing_files(directory: Path, manifest: Manifest) -> list[str]:
    """Return names of files in the manifest that are absent or have another size (bytes are not read)."""

    folder = str(directory)

    def sound(name: str, entry: FileEntry) -> bool:
        try:
            return (
                os.stat(os.path.join(folder, name)).st_size == entry.size
            )  # A Path for each would take twice as long.
        except FileNotFoundError:
            return False

    return [name for name, entry in manifest.files.items() if not sound(name, entry)]


def list_files(directory: Path, known: Mapping[str, tuple[int, str]] | None = None) -> dict[str, FileEntry]:
    """Return size and sha256 of every file below `directory` except the manifest, by relative name.

    known: size and sha256 of files that are not read, and do not have to be found. The folder of receipts and the card
    are left out.
    """
    known = known or {}
    entries = {name: FileEntry(size=size, sha256=digest) for name, (size, digest) in known.items()}
    for folder, folders, names in os.walk(directory):
        if folder == str(directory) and UNITS in folders:
            folders.remove(UNITS)
        for name in names:
            path = Path(folder, name)
            relative = str(path.relative_to(directory))
            if relative not in entries and relative != CARD and name != MANIFEST and path.is_file():
                entries[relative] = FileEntry(size=path.stat().st_size, sha256=sha256_of(path))
    return dict(sorted(entries.items(), key=lambda entry: entry[0].split("/")))
