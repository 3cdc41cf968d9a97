"""A file or a directory is whole, or it does not exist.

A stage builds a directory beside its target, named after the fingerprint of what it makes:
`.<name>.<fingerprint>.partial`. What is finished in there survives a kill and is found again by the same
fingerprint. `commit` writes the manifest last and renames. What stood at the target before is set aside in
`.stale/`, where a later run with the old settings finds it again; unless it is replaced by one of the same fingerprint,
because it was not whole or was to be made anew: then it gets a name there by which nobody looks for it.

What a killed process leaves is removed by whoever next does the same: a temporary file by the next writer of that file
or by the commit of its directory, everything beside a target by its next commit, or by `clear_left_overs` where the
target turned out to be finished.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from shards.errors import Busy, ConfigError
from shards.fault import fault_point
from shards.lock import exclusive, lock_of

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
    seal: str | None = None  # sha256 of all the rest; None in those that are older than it.


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


def _orphans(path: Path) -> Iterator[Path]:
    """Temporary files for `path` whose writers were processes of this machine that are dead."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"(\d+)" + re.escape(f"@{platform.node()}.tmp"))
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in entries if entry.name.endswith(".tmp")]
    for name in names:
        if (match := pattern.fullmatch(name)) and not _alive(int(match[1])):
            yield path.with_name(name)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # Another user's.
        return True
    return True


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`: renamed to it when the block ends well, removed when it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for orphan in _orphans(path):
        orphan.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}@{platform.node()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        fault_point("before rename", path.name)
        os.replace(temporary, path)
        fault_point("after rename", path.name)
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


def _write_manifest(directory: Path, manifest: Manifest) -> None:
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


def partial_directory(target: Path, fingerprint: str) -> Path:
    """Where the directory `target` with this fingerprint is built."""
    return target.with_name(f".{target.name}.{fingerprint[:12]}.partial")


def stale_directory(target: Path, fingerprint: str) -> Path:
    """Where a replaced `target` with this fingerprint is kept."""
    return target.parent / STALE / f"{target.name}-{fingerprint[:12]}"


def discard(directory: Path) -> None:
    """Delete a partial directory. Killed in the middle of it, nobody takes what is left for finished parts."""
    doomed = directory.with_suffix(".removed")
    if doomed.exists():
        shutil.rmtree(doomed)
    os.rename(directory, doomed)
    fault_point("in discard")
    shutil.rmtree(doomed)


def replaced_directory(target: Path, fingerprint: str) -> Path:
    """Where a `target` is kept in whose place another of the same fingerprint was put. It never comes back."""
    aside = stale_directory(target, fingerprint)
    return aside.with_name(f"{aside.name}.replaced")


def set_aside(target: Path, replaced_by: str | None = None) -> Path | None:
    """Move a committed `target` into `.stale/`; None where there was nothing. Of a fingerprint the last one is kept.

    Where its fingerprint is that of what takes its place, `replaced_by`, `restore` does not find it again.

    Raises:
        ConfigError: it is a folder of other committed directories.
    """
    if not target.exists():
        return None
    manifest = read_manifest(target)
    if manifest is None and any(target.glob("*/" + MANIFEST)):
        raise ConfigError(f"{target} holds other finished directories. Give this one a directory of its own.")
    # One that has lost its manifest gets a name of its own: nothing may be deleted for it.
    aside = stale_directory(target, manifest.fingerprint if manifest else uuid.uuid4().hex)
    if manifest is not None and manifest.fingerprint == replaced_by:
        aside = replaced_directory(target, replaced_by)
    aside.parent.mkdir(parents=True, exist_ok=True)
    if aside.exists():
        shutil.rmtree(aside)  # An older copy of the same fingerprint.
    fault_point("before set_aside")
    os.rename(target, aside)
    fault_point("after set_aside")
    return aside


def _returning(target: Path) -> list[Path]:
    """Directories on their way back from `.stale/`, by names that tell their fingerprints."""
    return _beside(target, r"[^.]+\.returning")


def _beside(target: Path, pattern: str) -> list[Path]:
    # A dot in between makes it a neighbour's.
    named = re.compile(re.escape(f".{target.name}.") + pattern)
    return [path for path in sorted(target.parent.iterdir()) if named.fullmatch(path.name)]


def put_back(target: Path) -> None:
    """Undo a restoring that a kill broke off between its renames: nothing that was set aside may get lost."""
    for returning in _returning(target):
        mark = returning.name.split(".")[-2]
        aside = stale_directory(target, mark)
        aside.parent.mkdir(parents=True, exist_ok=True)
        _give_up(target, mark)  # Of two of a fingerprint the one on its way was found whole, the other one was not.
        fault_point("before put_back")
        os.rename(returning, aside)
        fault_point("after put_back")


def _give_up(target: Path, fingerprint: str) -> None:
    """Have `restore` not find what was set aside with this fingerprint, if there is anything: it is replaced."""
    aside, replaced = stale_directory(target, fingerprint), replaced_directory(target, fingerprint)
    if not aside.exists():
        return
    if replaced.exists():
        shutil.rmtree(replaced)
    fault_point("before give up")
    os.rename(aside, replaced)
    fault_point("after give up")


def restore(target: Path, fingerprint: str) -> Manifest | None:
    """Bring back a directory that was set aside with this very fingerprint, whole; None where there is none.

    What was begun beside it is given up, as by a commit.
    """
    put_back(target)
    aside = stale_directory(target, fingerprint)
    manifest = read_manifest(aside)
    if manifest is None or manifest.fingerprint != fingerprint or missing_files(aside, manifest):
        return None
    # Out of the way first: setting the present one aside must not meet the one that returns.
    returning = target.with_name(f".{target.name}.{fingerprint[:12]}.returning")
    fault_point("before restore")
    os.rename(aside, returning)
    fault_point("after restore", "began")
    set_aside(target, fingerprint)
    fault_point("before restore", "ends")
    os.rename(returning, target)
    fault_point("after restore")
    _sync(target.parent)
    _remove_partials(target)
    return manifest


def clear_left_overs(target: Path) -> None:
    """Remove what a killed process left beside a `target` that is finished: its lock, and partial directories.

    A lock that is there tells of it, so this costs one look where nobody was killed. Where another process is at work
    at the target, or where nothing may be written, it is left alone.
    """
    if lock_of(target).exists():
        with suppress(Busy, OSError), exclusive(target):
            put_back(target)
            _remove_partials(target)


def _remove_partials(target: Path) -> None:
    # Of other fingerprints: what they were begun for is not asked for any more.
    for left_over in _beside(target, r"[^.]+\.partial"):
        discard(left_over)
    for left_over in _beside(target, r"[^.]+\.removed"):
        shutil.rmtree(left_over)


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
    _write_manifest(partial, manifest)
    set_aside(target, manifest.fingerprint)
    fault_point("before commit")
    os.rename(partial, target)
    fault_point("after commit")
    _sync(target.parent)
    _give_up(target, manifest.fingerprint)
    _remove_partials(target)
    return manifest
