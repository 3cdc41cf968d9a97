"""The contract that every stage keeps: reuse what is whole and unchanged, resume what is partial, commit at once."""

import datetime
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.errors import StageError
from shards.store.commit import begin, clear_left_overs, commit, discard, partial_directories, put_back, restore
from shards.store.fault import fault_point
from shards.store.files import taken_away
from shards.store.lock import exclusive
from shards.store.manifest import MANIFEST, Manifest, missing_files, read_manifest

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
    """What a directory is: which stage makes it, from what. The fingerprint covers all the rest."""

    stage: str
    version: int
    fingerprint: str
    modality: str | None = None
    round: int | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a stage's work says of itself: rows written, inputs rejected, and a summary for people and reports.

    files: names of files without which the directory is not whole: it is not committed where one is missing.
    """

    rows: int
    rejects: int = 0
    summary: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """What a stage returns: where its directory is and what stands in its manifest. Small, JSON-serialisable."""

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
    """The record of a committed directory."""
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


def reusable(target: Path, fingerprint: str) -> Record | None:
    """The record of `target`, if it is committed with this fingerprint and its files are there in full size."""
    manifest = read_manifest(target)
    if manifest is None or manifest.fingerprint != fingerprint or missing_files(target, manifest):
        return None
    return record_of(target, manifest, reused=True)


def package_versions() -> dict[str, str]:
    """The installed versions of what decides about results."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@contextmanager
def machine_trouble_explained(stage: str, target: Path) -> Iterator[None]:
    """A full disk, a missing permission or too little memory is no defect of ours: say what it is, and that nothing is
    lost.
    """
    try:
        yield
    except MemoryError as error:
        raise StageError(
            f"{stage} has not enough memory{f' ({error})' if str(error) else ''}. Older results are as they were, and "
            "what is finished of the new ones is kept: free some, and run the same again."
        ) from error
    except OSError as error:
        where = error.filename or target
        what = error.strerror or str(error).strip().splitlines()[-1]  # From a worker process it comes with a traceback.
        raise StageError(
            f"{stage} cannot write or read: {what} ({where}). Older results are as they "
            "were, and what is finished of the new ones is kept: put this right, and run the same again."
        ) from error


def _cpu_seconds() -> float:
    """Of this process, and of its children that have ended."""
    return sum(os.times()[:4])


def build(target: Path, identity: Identity, work: Callable[[Path], Outcome], force: bool = False) -> Record:
    """Have `target` hold what `identity` describes: reuse it, or call `work` on a partial directory and commit.

    `work` finds in its directory what an earlier, killed call with the same identity left there. `force` starts
    from nothing. A directory that stands in the way is set aside, not deleted.

    Raises:
        Busy: another process is building it.
        StageError: the disk is full, a permission is missing, or the like; files that the outcome names are not there;
            or another process, which this machine's locks do not keep out, has taken the directory away.
        Whatever `work` raises; what it had finished stays for the next call.
    """
    if not force and (record := reusable(target, identity.fingerprint)):
        clear_left_overs(target)
        return record
    with machine_trouble_explained(identity.stage, target), exclusive(target):
        if not force and (record := reusable(target, identity.fingerprint)):
            return record
        put_back(target)
        begun = partial_directories(target, identity.fingerprint)
        for partial in begun if force else ():
            discard(partial)
        # One that only lacks its name is newer than what was set aside: it was to take that one's place.
        finished = any(read_manifest(partial) is not None for partial in begun)
        if not (force or finished) and (manifest := restore(target, identity.fingerprint)):
            return record_of(target, manifest, reused=True)
        partial = begin(target, identity.fingerprint)
        (partial / MANIFEST).unlink(missing_ok=True)  # Of a commit that was killed: it will be written anew.
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
        manifest = Manifest(
            stage=identity.stage,
            modality=identity.modality,
            round=identity.round,
            version=identity.version,
            fingerprint=identity.fingerprint,
            inputs=identity.inputs,
            settings=identity.settings,
            rows=outcome.rows,
            rejects=outcome.rejects,
            seconds=round(time.monotonic() - clock, 3),
            cpu_seconds=round(_cpu_seconds() - used, 3),
            started=started.isoformat(timespec="milliseconds"),
            finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            versions=package_versions(),
            summary=outcome.summary,
        )
        return record_of(target, commit(partial, target, manifest, outcome.files), reused=False)


def _is_still(partial: Path, own: os.stat_result) -> bool:
    """Whether a partial directory is the one that was begun, not another that has its name now."""
    try:
        return os.path.samestat(os.stat(partial), own)
    except FileNotFoundError:
        return False
