"""A directory is whole, or it does not exist.

A stage builds a directory beside its target, named after the fingerprint of what it makes:
`.<name>.<fingerprint>.partial`. What is finished in there survives a kill and is found again by the same
fingerprint. `commit` writes the manifest last and renames. What stood at the target before is set aside in
`.stale/`, where a later run with the old settings finds it again; unless it is replaced by one of the same fingerprint,
because it was not whole or was to be made anew: then it gets a name there by which nobody looks for it.

Two builders at once, where locks do not exclude them, cannot mix what they write: whoever goes on with a partial
directory renames it first, nothing makes one again under the old name, and a commit refuses what is not whole. So the
slower one ends with an error (`taken_away`), at its next write or at its commit.

What a killed process leaves beside a target is removed by its next commit, or by `clear_left_overs` where the target
turned out to be finished.
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from shards.errors import Busy, ConfigError, StageError
from shards.store.fault import fault_point
from shards.store.files import sync, taken_away
from shards.store.lock import exclusive, lock_of
from shards.store.manifest import (
    MANIFEST,
    Manifest,
    list_files,
    missing_files,
    read_manifest,
    write_manifest,
)

STALE = ".stale"
# What a rename fails with where another process has taken its source away, or has been there before.
OVERTAKEN = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)


def partial_directory(target: Path, fingerprint: str) -> Path:
    """Where the directory `target` with this fingerprint is built, as long as nobody else goes on with it."""
    return target.with_name(f".{target.name}.{fingerprint[:12]}.partial")


def partial_directories(target: Path, fingerprint: str) -> list[Path]:
    """What was begun of `target` with this fingerprint; several only where several processes began at once."""
    if not target.parent.is_dir():
        return []
    return _beside(target, re.escape(fingerprint[:12]) + r"(-[0-9a-f]+)?\.partial")


def begin(target: Path, fingerprint: str) -> Path:
    """Make the partial directory of `target`, or go on with one that is there, which gets a new name.

    By the new name this process alone knows it: where its former owner still lives, on another machine or as a child of
    a process that was killed, its next write fails.

    Raises:
        StageError: another process has begun, or gone on with it, at the same instant.
    """
    begun, partial = partial_directories(target, fingerprint), partial_directory(target, fingerprint)
    try:
        if begun:
            partial = partial.with_name(f"{partial.stem}-{uuid.uuid4().hex[:8]}.partial")
            os.rename(begun[0], partial)
        else:
            partial.mkdir()
    except (FileExistsError, FileNotFoundError) as error:
        raise taken_away(begun[0] if begun else partial) from error
    return partial


def stale_directory(target: Path, fingerprint: str) -> Path:
    """Where a replaced `target` with this fingerprint is kept."""
    return target.parent / STALE / f"{target.name}-{fingerprint[:12]}"


def discard(directory: Path) -> None:
    """Delete a partial directory. Killed in the middle of it, nobody takes what is left for finished parts."""
    doomed = directory.with_suffix(".removed")
    _remove_tree(doomed)
    os.rename(directory, doomed)
    fault_point("in discard")
    _remove_tree(doomed)


def _remove_tree(directory: Path) -> None:
    """Delete a directory, if it is there and no other process is about the same."""
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)


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
    _remove_tree(aside)  # An older copy of the same fingerprint.
    fault_point("before set_aside")
    os.rename(target, aside)
    fault_point("after set_aside")
    return aside


def _put_in_place(directory: Path, target: Path, fingerprint: str, *point: str) -> None:
    """Set aside what stands at `target`, and give its name to `directory`. `point`: a fault point before the latter.

    Where another process has taken `directory` away meanwhile, what was set aside was perhaps its work: it returns.
    """
    aside = set_aside(target, fingerprint)
    fault_point(*point)
    try:
        os.rename(directory, target)
    except OSError:
        if aside is not None and not target.exists():
            with suppress(OSError):
                os.rename(aside, target)
        raise


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
    _remove_tree(replaced)
    fault_point("before give up")
    os.rename(aside, replaced)
    fault_point("after give up")


def restore(target: Path, fingerprint: str) -> Manifest | None:
    """Bring back a directory that was set aside with this very fingerprint, whole; None where there is none.

    What was begun beside it is given up, as by a commit.

    Raises:
        StageError: another process has taken it, or what it was to replace.
    """
    put_back(target)
    aside = stale_directory(target, fingerprint)
    manifest = read_manifest(aside)
    if manifest is None or manifest.fingerprint != fingerprint or missing_files(aside, manifest):
        return None
    # Out of the way first: setting the present one aside must not meet the one that returns.
    returning = target.with_name(f".{target.name}.{fingerprint[:12]}.returning")
    try:
        fault_point("before restore")
        os.rename(aside, returning)
        fault_point("after restore", "began")
        _put_in_place(returning, target, fingerprint, "before restore", "ends")
        fault_point("after restore")
    except OSError as error:
        if error.errno in OVERTAKEN:
            raise taken_away(returning) from error
        raise
    sync(target.parent)
    _remove_partials(target)
    return manifest


def clear_left_overs(target: Path) -> None:
    """Remove what a killed process left beside a `target` that is finished: its lock, and partial directories.

    A lock that is there tells of it, so this costs one look where nobody was killed. Where another process is at work
    at the target, or where nothing may be written, it is left alone.
    """
    if lock_of(target).exists():
        with suppress(Busy, OSError), exclusive(target, patience=0):
            put_back(target)
            _remove_partials(target)


def _remove_partials(target: Path) -> None:
    # Of other fingerprints: what they were begun for is not asked for any more.
    for left_over in _beside(target, r"[^.]+\.partial"):
        with suppress(FileNotFoundError):  # Its owner, on another machine, has just committed or renamed it.
            discard(left_over)
    for left_over in _beside(target, r"[^.]+\.removed"):
        _remove_tree(left_over)


def commit(partial: Path, target: Path, manifest: Manifest, files: Collection[str] = ()) -> Manifest:
    """Give a finished partial directory its manifest and its name. Returns the manifest with its files listed.

    `files`: names of files that it must have.

    Raises:
        StageError: one of `files` is not there, or another process has taken the directory away. Nothing is committed.
    """
    for path in sorted(partial.rglob(".*.tmp")):
        path.unlink(missing_ok=True)  # Left by a killed writer.
    try:
        manifest = manifest.model_copy(update={"files": list_files(partial)})
        if lost := sorted(set(files) - manifest.files.keys()):
            raise _incomplete(partial, lost, len(files))
        for name in manifest.files:
            sync(partial / name)
    except FileNotFoundError as error:
        raise taken_away(partial) from error
    write_manifest(partial, manifest)
    try:
        _put_in_place(partial, target, manifest.fingerprint, "before commit")
    except OSError as error:
        if error.errno in OVERTAKEN:
            raise taken_away(partial) from error
        raise
    fault_point("after commit")
    sync(target.parent)
    # What was renamed is what was listed, unless another process took the manifest out of it and went on with it.
    found = read_manifest(target)
    if found is None or (found.started, found.files) != (manifest.started, manifest.files):
        raise taken_away(partial)
    _give_up(target, manifest.fingerprint)
    _remove_partials(target)
    return manifest


def _incomplete(partial: Path, lost: list[str], wanted: int) -> StageError:
    if not partial.exists():
        return taken_away(partial)
    return StageError(
        f"{partial}: {len(lost)} of the {wanted} files that it must have are not there ({lost[0]} first). It is not "
        "committed, and what is there is kept: run this again."
    )
