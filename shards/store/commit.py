"""Committed directories: a directory is complete, or it does not exist.

A stage builds a directory beside its target. Its name contains the fingerprint of the result:
`.<name>.<fingerprint>.partial`. The finished parts in it survive a kill, and the next call finds them by the same
fingerprint. `commit` writes the manifest last and renames the directory. The previous directory at the target is set
aside in `.stale/`, where a later run with the old settings finds it. If it is replaced by one of the same fingerprint
(because it was damaged, or by `--force`), it gets a name there under which it is never restored.

Two builders that locks do not exclude cannot mix their files: a process that continues a partial directory renames it
first, nothing creates one again under the old name, and a commit refuses an incomplete directory. So the slower one
ends with an error (`taken_away`), at its next write or at its commit.

Left-overs of a killed process beside a target are removed by its next commit, or by `clear_left_overs` if the target is
finished.
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Collection, Mapping
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
from shards.store.receipt import UNITS
from shards.store.units import stored_files

STALE = ".stale"
# Names that `partial_directory`, `begin`, `stale_directory` and `replaced_directory` give.
BEGUN = re.compile(r"\.(?P<name>.+)\.(?P<mark>[^.-]+)(-[0-9a-f]+)?\.partial")
ASIDE = re.compile(r"(?P<name>.+)-(?P<mark>[0-9a-f]+)(?P<replaced>\.replaced)?")
# Errors of a rename if another process has moved its source, or was faster.
OVERTAKEN = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)


def partial_directory(target: Path, fingerprint: str) -> Path:
    """Return the path at which `target` with this fingerprint is built first; a later call continues under another."""
    return target.with_name(f".{target.name}.{fingerprint[:12]}.partial")


def partial_directories(target: Path, fingerprint: str) -> list[Path]:
    """Return the partial directories of `target` with this fingerprint. There are several only if several processes
    began at once.
    """
    if not target.parent.is_dir():
        return []
    return _beside(target, re.escape(fingerprint[:12]) + r"(-[0-9a-f]+)?\.partial")


def begin(target: Path, fingerprint: str) -> Path:
    """Make the partial directory of `target`, or rename an existing one and continue it. Return its path.

    Only this process knows the new name. If the former owner is still alive, on another machine or as a child of a
    killed process, its next write fails.

    Raises:
        StageError: another process has begun or continued it at the same instant.
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
    """Return the path at which a replaced `target` with this fingerprint is kept."""
    return target.parent / STALE / f"{target.name}-{fingerprint[:12]}"


def target_of(directory: Path) -> tuple[Path, str] | None:
    """Return the target that a partial directory or one set aside belongs to, and the beginning of its fingerprint, ""
    if it is never restored; None for another directory.
    """
    if directory.parent.name == STALE:
        if not (named := ASIDE.fullmatch(directory.name)):
            return None
        return directory.parent.parent / named["name"], "" if named["replaced"] else named["mark"]
    named = BEGUN.fullmatch(directory.name)
    return (directory.with_name(named["name"]), named["mark"]) if named else None


def discard(directory: Path, doomed: Path | None = None) -> None:
    """Delete a directory. It is renamed first, so that the rest of a killed deletion is not taken for work.

    doomed: its name meanwhile; None: its own with the suffix `.removed`, which suits partial directories.
    """
    doomed = doomed or directory.with_suffix(".removed")
    remove_tree(doomed)
    os.rename(directory, doomed)
    fault_point("in discard")
    remove_tree(doomed)


def remove_tree(directory: Path) -> None:
    """Delete a directory if it exists and no other process deletes it at the same time."""
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)


def replaced_directory(target: Path, fingerprint: str) -> Path:
    """Return the path of a `target` that was replaced by one of the same fingerprint. It is never restored."""
    aside = stale_directory(target, fingerprint)
    return aside.with_name(f"{aside.name}.replaced")


def set_aside(target: Path, replaced_by: str | None = None) -> Path | None:
    """Move a committed `target` into `.stale/` and return its new path; None if it does not exist.

    Only the last directory of a fingerprint is kept. If the fingerprint equals `replaced_by`, that of its replacement,
    `restore` does not find it again.

    Raises:
        ConfigError: it is a folder of other committed directories.
    """
    if not target.exists():
        return None
    manifest = read_manifest(target)
    if manifest is None and any(target.glob("*/" + MANIFEST)):
        raise ConfigError(f"{target} holds other finished directories. Give this one a directory of its own.")
    # A directory without a manifest gets a unique name, so that nothing is deleted for it.
    aside = stale_directory(target, manifest.fingerprint if manifest else uuid.uuid4().hex)
    if manifest is not None and manifest.fingerprint == replaced_by:
        aside = replaced_directory(target, replaced_by)
    aside.parent.mkdir(parents=True, exist_ok=True)
    remove_tree(aside)  # An older copy of the same fingerprint.
    fault_point("before set_aside")
    os.rename(target, aside)
    fault_point("after set_aside")
    return aside


def _put_in_place(directory: Path, target: Path, fingerprint: str, *point: str) -> None:
    """Set aside the present `target` and rename `directory` to it. `point`: a fault point before the rename.

    If another process has moved `directory` meanwhile, the directory set aside may be its work: it is put back.
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
    """Return the directories that are being restored from `.stale/`. Their names contain their fingerprints."""
    return _beside(target, r"[^.]+\.returning")


def _beside(target: Path, pattern: str) -> list[Path]:
    # A name with another dot belongs to another target.
    named = re.compile(re.escape(f".{target.name}.") + pattern)
    return [path for path in sorted(target.parent.iterdir()) if named.fullmatch(path.name)]


def finish_commit(target: Path, fingerprint: str | None = None) -> Manifest | None:
    """Finish a commit that was killed between its renames: of a complete directory with this fingerprint, or any.

    Return its manifest; None if `target` exists, or there is no such directory.
    """
    if target.exists() or not target.parent.is_dir():
        return None
    for partial in _beside(target, r"[^.]+\.partial"):
        manifest = read_manifest(partial)
        if manifest is None or missing_files(partial, manifest) or fingerprint not in (None, manifest.fingerprint):
            continue
        try:
            os.rename(partial, target)
        except OSError as error:
            if error.errno in OVERTAKEN:
                raise taken_away(partial) from error
            raise
        sync(target.parent)
        return manifest
    return None


def put_back(target: Path) -> None:
    """Undo a restoration that was killed between its renames, so that nothing set aside is lost."""
    for returning in _returning(target):
        mark = returning.name.split(".")[-2]
        aside = stale_directory(target, mark)
        aside.parent.mkdir(parents=True, exist_ok=True)
        _give_up(target, mark)  # Of two with one fingerprint, the one being restored was complete.
        fault_point("before put_back")
        os.rename(returning, aside)
        fault_point("after put_back")


def _give_up(target: Path, fingerprint: str) -> None:
    """Rename a directory set aside with this fingerprint, if there is one, so that `restore` does not find it."""
    aside, replaced = stale_directory(target, fingerprint), replaced_directory(target, fingerprint)
    if not aside.exists():
        return
    remove_tree(replaced)
    fault_point("before give up")
    os.rename(aside, replaced)
    fault_point("after give up")


def restore(target: Path, fingerprint: str) -> Manifest | None:
    """Restore a complete directory that was set aside with this fingerprint; return None if there is none.

    Partial directories of the target are deleted, as by a commit.

    Raises:
        StageError: another process has moved it, or the directory that it replaces.
    """
    put_back(target)
    aside = stale_directory(target, fingerprint)
    manifest = read_manifest(aside)
    if manifest is None or manifest.fingerprint != fingerprint or missing_files(aside, manifest):
        return None
    # Move it out of `.stale/` first, so that setting the present one aside does not overwrite it.
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
    """Remove the left-overs of a killed process beside a finished `target`: its lock, and partial directories.

    Only a killed process leaves a lock file, so without one this costs a single look. If another process is building
    the target, or the folder is not writable, nothing is removed.
    """
    if lock_of(target).exists():
        with suppress(Busy, OSError), exclusive(target, patience=0):
            put_back(target)
            shutil.rmtree(target / UNITS, ignore_errors=True)
            _remove_partials(target)


def _remove_partials(target: Path) -> None:
    # They have other fingerprints, and their settings are no longer current.
    for left_over in _beside(target, r"[^.]+\.partial"):
        with suppress(FileNotFoundError):  # Its owner, on another machine, has just committed or renamed it.
            discard(left_over)
    for left_over in _beside(target, r"[^.]+\.removed"):
        remove_tree(left_over)


def commit(
    partial: Path,
    target: Path,
    manifest: Manifest,
    files: Collection[str] = (),
    linked: Mapping[str, tuple[int, str]] | None = None,
) -> Manifest:
    """Write the manifest of a finished partial directory and rename it. Return the manifest with its files listed.

    `files`: names of required files. Sizes and sha256 of files that have a receipt are taken from it, and those of
    files that another committed directory has from `linked`; only their sizes are checked.

    Raises:
        StageError: one of `files` or of the receipts' files is missing, or another process has moved the directory.
            Nothing is committed.
    """
    try:
        for folder, folders, names in os.walk(partial):
            folders[:] = [name for name in folders if name != UNITS]
            for name in names:
                if name.startswith(".") and name.endswith(".tmp"):
                    Path(folder, name).unlink(missing_ok=True)  # Left by a killed writer.
        stored = {**stored_files(partial), **(linked or {})}
        manifest = manifest.model_copy(update={"files": list_files(partial, stored)})
        if lost := sorted(
            {*files}.difference(manifest.files) | {*missing_files(partial, manifest)}.intersection(linked or ())
        ):
            raise _incomplete(partial, lost, len(files))
        for name in manifest.files.keys() - stored.keys():  # Workers have flushed theirs.
            sync(partial / name)
        for place in {(partial / name).parent for name in manifest.files} - {partial}:
            sync(place)
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
    # The renamed directory is the listed one, unless another process removed the manifest and continued it.
    committed = read_manifest(target)
    if committed is None or (committed.started, committed.files) != (manifest.started, manifest.files):
        raise taken_away(partial)
    _give_up(target, manifest.fingerprint)
    shutil.rmtree(target / UNITS, ignore_errors=True)  # A worker that is late may still have a file open.
    _remove_partials(target)
    return manifest


def _incomplete(partial: Path, lost: list[str], wanted: int) -> StageError:
    if not partial.exists():
        return taken_away(partial)
    return StageError(
        f"{partial}: {len(lost)} of the {wanted} files that it must have are not there ({lost[0]} first). It is not "
        "committed, and what is there is kept: run this again."
    )
