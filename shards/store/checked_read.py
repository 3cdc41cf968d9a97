"""Reading committed files with a check of their sha256."""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from shards.command import stage_command
from shards.errors import StageError
from shards.store.manifest import MANIFEST, Manifest, read_manifest

FETCHED = "tars.json"  # A file of corpora that lie in an object store: all others in their directory were fetched.


def read_stored(path: Path, stage: str) -> bytes:
    """Return all bytes of a file that `stage` wrote, checked against the sha256 in the manifest of its directory.

    Files of a directory without a manifest, which is being built, are read without a check.

    Raises:
        StageError: the file is missing, or differs from what was committed; the text has the command that rebuilds it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StageError(f"{path} cannot be read (No such file or directory). {remedy_of(path, stage)}") from None
    manifest, name = _manifest_of(path)
    if manifest is None:
        return data
    entry = manifest.files.get(name)
    if entry is None:
        raise StageError(
            f"{path} does not belong there: it is not among the files that were committed. Move it elsewhere."
        )
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise StageError(f"{path} cannot be read (damaged: not what was committed). {remedy(manifest, stage)}")
    return data


def read_stored_json(path: Path, stage: str) -> Any:
    """Return the value in a JSON file that `stage` wrote. Raises StageError as `read_stored` does."""
    try:
        return json.loads(read_stored(path, stage))
    except ValueError as error:
        raise StageError(f"{path} cannot be read ({error}). {remedy_of(path, stage)}") from error


def remedy(manifest: Manifest | None, stage: str) -> str:
    """Return a sentence with the command that rebuilds a committed directory. `stage` is used without a manifest."""
    if manifest is None:
        return f"Rebuild it: xdc stage {stage} ... --force"
    if FETCHED in manifest.files:
        return f"Remove the file and fetch it again: {stage_command(manifest.stage)}"
    words = stage_command(manifest.stage, modality=manifest.modality, round=manifest.round, force=True)
    return f"Rebuild it: {words}"


def remedy_of(path: Path, stage: str) -> str:
    """Return the same sentence for the directory of a file that `stage` wrote."""
    return remedy(_manifest_of(path)[0], stage)


def _manifest_of(path: Path) -> tuple[Manifest | None, str]:
    """Return the manifest of the file's directory, or of the one above, and the file's name in it."""
    for directory in (path.parent, path.parent.parent):
        try:
            status = os.stat(directory / MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            continue
        manifest = _manifest(directory, status.st_ino, status.st_mtime_ns, status.st_size)
        return manifest, path.relative_to(directory).as_posix()
    return None, path.name


@lru_cache(maxsize=256)
def _manifest(directory: Path, inode: int, mtime_ns: int, size: int) -> Manifest | None:
    """Read a manifest once while its file is the same, because a stage reads its shards one by one."""
    return read_manifest(directory)


def read_rejects(directory: Path, stage: str, shard: str) -> list[dict[str, Any]]:
    """Return the content of `<shard>.rejects.json`; [] without the file. Raises StageError as `read_stored` does."""
    path = directory / f"{shard}.rejects.json"
    rejects: list[dict[str, Any]] = read_stored_json(path, stage) if path.exists() else []
    return rejects


def rejected_keys(directory: Path, stage: str, shard: str) -> list[str]:
    """Return the rejected keys in `<shard>.rejects.json`; none without the file.

    Raises StageError as `read_stored` does.
    """
    return [entry["key"] for entry in read_rejects(directory, stage, shard)]
