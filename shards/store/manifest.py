"""The manifest of a committed directory: what it holds, and everything it was made from. It is written last."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from shards.store.files import sha256_of, write_json

MANIFEST = "manifest.json"


class FileEntry(BaseModel):
    """Size in bytes and sha256 of one file of a committed directory."""

    size: int
    sha256: str


class Manifest(BaseModel):
    """What a committed directory holds, and everything it was made from."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
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
    seal: str | None = None  # sha256 of all the rest; None in those that are older than it.


def fingerprint(value: object) -> str:
    """sha256, as 64 hex digits, over the canonical JSON of `value` (sorted keys, no white space)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """With the sha256 of everything it says, so that a change of one digit is noticed."""
    said = json.loads(manifest.model_dump_json(exclude={"seal"}))
    write_json(directory / MANIFEST, said | {"seal": fingerprint(said)})


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a committed directory, or None where there is no sound one: the directory counts as not there."""
    try:
        data = (directory / MANIFEST).read_bytes()
        manifest = Manifest.model_validate_json(data)
        said = json.loads(data)
        if manifest.seal is not None and said.pop("seal") != fingerprint(said):
            return None
    except (FileNotFoundError, NotADirectoryError, ValueError):  # Of these is pydantic's ValidationError.
        return None
    return manifest.model_copy(update={"seal": None})


def missing_files(directory: Path, manifest: Manifest) -> list[str]:
    """Names of files that the manifest lists and that are absent or of another size (bytes are not read)."""

    def sound(name: str, entry: FileEntry) -> bool:
        try:
            return (directory / name).stat().st_size == entry.size
        except FileNotFoundError:
            return False

    return [name for name, entry in manifest.files.items() if not sound(name, entry)]


def list_files(directory: Path) -> dict[str, FileEntry]:
    """Size and hash of every file below `directory` but the manifest, by relative name."""
    return {
        str(path.relative_to(directory)): FileEntry(size=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
