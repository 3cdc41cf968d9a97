"""The contract of every stage: reuse a finished directory, resume a partial one, commit with one rename."""

import datetime
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.errors import MachineError
from shards.store.commit import (
    begin,
    clear_left_overs,
    commit,
    discard,
    finish_commit,
    partial_directories,
    put_back,
    restore,
)
from shards.store.fault import fault_point
from shards.store.files import taken_away
from shards.store.lock import exclusive
from shards.store.manifest import MANIFEST, Manifest, missing_files, read_manifest
from shards.version import DISTRIBUTION

PACKAGES = (
    "xdc",
    "av",
    "faiss-gpu",
    "faiss-cpu",
    "numpy",
    "pyarrow",
    "torch",
    "torchaudio",
    "torchvision",
    "webdataset",
)


@dataclass(frozen=True)
class Identity:
    """The identity of a directory: its stage, settings and inputs. The fingerprint covers all of them."""

    stage: str
    version: int
    fingerprint: str
    modality: str | None = None
    round: int | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The result of a stage's work: rows written, inputs rejected, and a summary for people and reports.

    files: names of required files. The directory is not committed if one is missing. linked: size and sha256, by name,
    of files that another committed directory has, too: they are not read.
    """

    rows: int
    rejects: int = 0
    summary: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    linked: Mapping[str, tuple[int, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What a stage returns: the path of its directory and the contents of its manifest. Small, JSON-serialisable."""

    stage: str
    modality: str | None
    round: int | None
    path: str
    fingerprint: str
    reused: bool
    rows: int
    rejects: int
    seconds: float
    summary: dict[str, Any]


def record_of(target: Path, manifest: Manifest, reused: bool) -> Record:
    """Return the record of a committed directory."""
    return Record(
        manifest.stage,
        manifest.modality,
        manifest.round,
        str(target),
        manifest.fingerprint,
        reused,
        manifest.rows,
        manifest.rejects,
        manifest.seconds,
        manifest.summary,
    )


def reusable(target: Path, fingerprint: str, manifest: Manifest | None = None) -> Record | None:
    """Return the record of `target` if it is committed with this fingerprint and its files have their full size.

    `manifest`: its manifest, if it has been read already.
    """
    manifest = manifest or read_manifest(target)
    if manifest is None or manifest.fingerprint != fingerprint or missing_files(target, manifest):
        return None
    return record_of(target, manifest, reused=True)


def package_versions() -> dict[str, str]:
    """Return the installed versions of Python and of the packages that influence results."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(DISTRIBUTION if package == "xdc" else package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@contextmanager
def machine_trouble_explained(stage: str, target: Path) -> Iterator[None]:
    """Raise errors of the machine (a full disk, a missing permission, too little memory) as MachineError.

    The text names the cause and says that finished work is kept.
    """
    try:
        yield
    except MemoryError as error:
        raise MachineError(
            f"{stage} does not have enough memory{f' ({error})' if str(error) else ''}. Older results are unchanged, "
            "and what is finished of the new ones is kept: free some memory, and run the same command again."
        ) from error
    except OSError as error:
        where = error.filename or target
        what = error.strerror or str(error).strip().splitlines()[-1]  # From a worker process it comes with a traceback.
        raise MachineError(
            f"{stage} cannot write or read: {what} ({where}). Older results are "
            "unchanged, and what is finished of the new ones is kept: correct this, and run the same command again."
        ) from error


def _cpu_seconds() -> float:
    """Return the processor time of this process and of its ended children, in seconds."""
    return sum(os.times()[:4])


def manifest_of(
    identity: Identity,
    outcome: Outcome,
    started: datetime.datetime,
    seconds: float | None = None,
    cpu_seconds: float | None = None,
) -> Manifest:
    """Return the manifest of a directory whose work ends now, without its files. seconds: None: by the clock."""
    finished = datetime.datetime.now(datetime.UTC)
    return Manifest(
        stage=identity.stage,
        modality=identity.modality,
        round=identity.round,
        version=identity.version,
        fingerprint=identity.fingerprint,
        inputs=identity.inputs,
        settings=identity.settings,
        rows=outcome.rows,
        rejects=outcome.rejects,
        seconds=round((finished - started).total_seconds() if seconds is None else seconds, 3),
        cpu_seconds=None if cpu_seconds is None else round(cpu_seconds, 3),
        started=started.isoformat(timespec="milliseconds"),
        finished=finished.isoformat(timespec="milliseconds"),
        versions=package_versions(),
        summary=outcome.summary,
    )


def build(
    target: Path,
    identity: Identity,
    work: Callable[[Path], Outcome],
    force: bool = False,
    restored: bool = True,
    again: str | None = None,
) -> Record:
    """Build the directory `target` that `identity` describes: reuse it, or call `work` on a partial one and commit.

    The directory given to `work` contains what an earlier, killed call with the same identity finished. `force`
    starts from an empty directory. An existing directory at `target` is set aside, not deleted. `restored`: whether
    a directory that was set aside with the same identity is put back instead. again: builds a finished directory once
    more, as `force` does, but goes on with what an earlier, killed call with the same text (hex digits) finished.

    Raises:
        Busy: another process is building it.
        StageError: the disk is full, a permission is missing, or the like; required files of the outcome are missing;
            or another process, which the locks do not exclude, has renamed or removed the directory.
        Exception: any of `work`; its finished parts are kept for the next call.
    """
    mark, force = again or identity.fingerprint, force or again is not None
    if not force and (record := reusable(target, identity.fingerprint)):
        clear_left_overs(target)
        return record
    with machine_trouble_explained(identity.stage, target), exclusive(target):
        if not force and (record := reusable(target, identity.fingerprint)):
            return record
        put_back(target)
        begun = partial_directories(target, mark)
        # Another call may have built the same once more, under another name.
        if not (force or begun) and (manifest := finish_commit(target, identity.fingerprint)):
            return record_of(target, manifest, reused=True)
        for partial in begun if force and again is None else ():
            discard(partial)
        # A partial directory with a manifest is newer than a directory set aside: it was about to replace it.
        finished = any(read_manifest(partial) is not None for partial in begun)
        if restored and not (force or finished) and (manifest := restore(target, identity.fingerprint)):
            return record_of(target, manifest, reused=True)
        partial = begin(target, mark)
        (partial / MANIFEST).unlink(missing_ok=True)  # Of a commit that was killed: it is written again.
        own = os.stat(partial)
        fault_point("after begin")
        started, clock, used = datetime.datetime.now(datetime.UTC), time.monotonic(), _cpu_seconds()
        try:
            outcome = work(partial)
        except OSError as error:  # Of a write that does not go through `new_file`.
            if not _is_still(partial, own):
                raise taken_away(partial) from error
            raise
        if not _is_still(partial, own):
            raise taken_away(partial)
        manifest = manifest_of(identity, outcome, started, time.monotonic() - clock, _cpu_seconds() - used)
        return record_of(target, commit(partial, target, manifest, outcome.files, outcome.linked), reused=False)


def _is_still(partial: Path, own: os.stat_result) -> bool:
    """Return whether a partial directory is still the same one, and not another one with its name."""
    try:
        return os.path.samestat(os.stat(partial), own)
    except FileNotFoundError:
        return False
