"""A file or a directory is whole, or it does not exist.

A stage builds a directory beside its target, named after the fingerprint of what it makes:
`.<name>.<fingerprint>.partial`. What is finished in there survives a kill and is found again by the same
fingerprint. `commit` writes the manifest last and renames. What stood at the target before is set aside in
`.stale/`, where a later run with the old settings finds it again.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import BaseModel, ConfigDict, ValidationError

from shards.errors import Busy, ConfigError

MANIFEST = "manifest.json"
STALE = ".stale"


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


def fingerprint(value: object) -> str:
    """sha256, as 64 hex digits, over the canonical JSON of `value` (sorted keys, no white space)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`: renamed to it when the block ends well, removed when it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, whole."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a committed directory, or None: then the directory counts as not there."""
    try:
        return Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def missing_files(directory: Path, manifest: Manifest) -> list[str]:
    """Names of files that the manifest lists and that are absent or of another size (bytes are not read)."""

    def sound(name: str, entry: FileEntry) -> bool:
        try:
            return (directory / name).stat().st_size == entry.size
        except FileNotFoundError:
            return False

    return [name for name, entry in manifest.files.items() if not sound(name, entry)]


def partial_directory(target: Path, fingerprint: str) -> Path:
    """Where the directory `target` with this fingerprint is built."""
    return target.with_name(f".{target.name}.{fingerprint[:12]}.partial")


def stale_directory(target: Path, fingerprint: str) -> Path:
    """Where a replaced `target` with this fingerprint is kept."""
    return target.parent / STALE / f"{target.name}-{fingerprint[:12]}"


# A lock belongs to every process that has inherited its file: a decoding worker must not hold it when we are killed.
_locks: set[TextIO] = set()
_inherited: list[TextIO] = []  # Never collected: that would close a number that is another file's by then.


def _let_go() -> None:
    for file in _locks:
        os.close(file.fileno())
        _inherited.append(file)
    _locks.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Only one process builds `target` at a time. The kernel frees the lock of a killed process.

    Raises:
        Busy: another living process holds it; the text names the process.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f".{target.name}.lock")
    while True:
        file = lock.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise Busy(
                f"{target} is being built by another process (pid {holder}). "
                "Wait until it has finished, or end it, and run this again."
            ) from None
        # The holder before us may have removed the file between our open and our lock.
        try:
            if os.path.sameopenfile(file.fileno(), (check := lock.open()).fileno()):
                check.close()
                break
            check.close()
        except FileNotFoundError:
            pass
        file.close()
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _locks.add(file)
    try:
        yield
    finally:
        _locks.discard(file)
        lock.unlink(missing_ok=True)
        file.close()


def set_aside(target: Path) -> Path | None:
    """Move a committed `target` into `.stale/`; None where there was nothing. Never deletes a committed one.

    Raises:
        ConfigError: it is a folder of other committed directories.
    """
    if not target.exists():
        return None
    manifest = read_manifest(target)
    if manifest is None and any(target.glob("*/" + MANIFEST)):
        raise ConfigError(f"{target} holds other finished directories. Give this one a directory of its own.")
    # One that has lost its manifest gets a name of its own: nothing may be deleted for it.
    aside = stale_directory(target, manifest.fingerprint if manifest else f"{time.time_ns():x}"[-12:])
    aside.parent.mkdir(parents=True, exist_ok=True)
    if aside.exists():
        shutil.rmtree(aside)  # An older copy of the same fingerprint.
    os.rename(target, aside)
    return aside


def restore(target: Path, fingerprint: str) -> Manifest | None:
    """Bring back a directory that was set aside with this very fingerprint, whole; None where there is none."""
    aside = stale_directory(target, fingerprint)
    returning = target.with_name(f".{target.name}.{fingerprint[:12]}.returning")
    if returning.exists() and not aside.exists():
        aside.parent.mkdir(parents=True, exist_ok=True)
        os.rename(returning, aside)  # A kill came between the renames below.
    manifest = read_manifest(aside)
    if manifest is None or manifest.fingerprint != fingerprint or missing_files(aside, manifest):
        return None
    # Out of the way first: setting the present one aside must not meet the one that returns.
    os.rename(aside, returning)
    set_aside(target)
    os.rename(returning, target)
    _sync(target.parent)
    return manifest


def list_files(directory: Path) -> dict[str, FileEntry]:
    """Size and hash of every file below `directory` but the manifest, by relative name."""
    return {
        str(path.relative_to(directory)): FileEntry(size=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def commit(partial: Path, target: Path, manifest: Manifest) -> Manifest:
    """Give a finished partial directory its manifest and its name. Returns the manifest with its files listed."""
    for path in sorted(partial.rglob(".*.tmp")):
        path.unlink()  # Left by a killed writer.
    manifest = manifest.model_copy(update={"files": list_files(partial)})
    for name in manifest.files:
        _sync(partial / name)
    write_text(partial / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    set_aside(target)
    os.rename(partial, target)
    _sync(target.parent)
    for left_over in list(target.parent.iterdir()):
        # Of other fingerprints: nobody will ask for them again. A dot in between makes it a neighbour's.
        if re.fullmatch(re.escape(f".{target.name}.") + r"[^.]+\.partial", left_over.name):
            shutil.rmtree(left_over)
    return manifest
