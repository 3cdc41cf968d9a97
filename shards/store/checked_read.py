"""The bytes of files that stages have committed, checked as they are read."""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from shards.command import stage_command
from shards.errors import StageError
from shards.store.manifest import MANIFEST, Manifest, read_manifest


def read_stored(path: Path, stage: str) -> bytes:
    """All bytes of a file that `stage` wrote, checked against the sha256 in the manifest of its directory.

    A file of a directory without a manifest, one that is being built, is read as it is.

    Raises:
        StageError: the file is not there, or is not what was committed; says which stage makes it anew.
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
    """The value in a JSON file that `stage` wrote. Raises StageError as `read_stored` does."""
    try:
        return json.loads(read_stored(path, stage))
    except ValueError as error:
        raise StageError(f"{path} cannot be read ({error}). {remedy_of(path, stage)}") from error


def remedy(manifest: Manifest | None, stage: str) -> str:
    """The command that makes a committed directory anew. `stage` counts where there is no manifest to tell."""
    if manifest is None:
        return f"Build it anew: xdc stage {stage} ... --force"
    words = stage_command(manifest.stage, modality=manifest.modality, round=manifest.round, force=True)
    return f"Build it anew: {words}"


def remedy_of(path: Path, stage: str) -> str:
    """The same for the directory of a file that `stage` wrote."""
    return remedy(_manifest_of(path)[0], stage)


def _manifest_of(path: Path) -> tuple[Manifest | None, str]:
    """The manifest of the directory, or of the one above, that a file belongs to, and the file's name in it."""
    for directory in (path.parent, path.parent.parent):
        try:
            status = os.stat(directory / MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            continue
        found = _manifest(directory, status.st_ino, status.st_mtime_ns, status.st_size)
        return found, path.relative_to(directory).as_posix()
    return None, path.name


@lru_cache(maxsize=256)
def _manifest(directory: Path, inode: int, mtime_ns: int, size: int) -> Manifest | None:
    """Read once as long as the file is the same: a stage reads its shards one by one."""
    return read_manifest(directory)
