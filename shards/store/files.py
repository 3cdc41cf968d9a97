"""Atomic files: a file is complete, or it does not exist. It is written under another name and renamed.

Left-overs of a killed process are removed by the next writer of the file, or by the commit of its directory.
"""

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from shards.errors import StageError
from shards.store.fault import fault_point

PARTIAL = re.compile(r"\..+\.partial")
# The folders of a directory that hold its parts, one Parquet file per shard, and nothing else: `index` in a corpus,
# `data` elsewhere. In directories of manifest format 1 the parts lie beside the other files.
DATA, INDEX = PARTS = "data", "index"
# A text for people in a committed directory. No manifest lists it, so that it can be edited.
CARD = "README.md"


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file or directory to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def orphans(path: Path) -> Iterator[Path]:
    """Yield temporary files for `path` whose writers were processes of this machine and are dead."""
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
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds, remove it when it raises.

    A missing folder is created; a missing partial directory is not.

    Raises:
        StageError: the partial directory of the file is gone.
    """
    partial = _partial_around(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}@{platform.node()}.tmp")
    try:
        _make_folder(path.parent, partial)
        for orphan in orphans(path):
            orphan.unlink(missing_ok=True)
        yield temporary
        sync(temporary)
        fault_point("before rename", path.name)
        os.replace(temporary, path)
        fault_point("after rename", path.name)
        sync(path.parent)
    except FileNotFoundError as error:
        if partial is not None and not partial.exists():
            raise taken_away(partial) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _partial_around(path: Path) -> Path | None:
    """Return the partial directory around a file, at any depth."""
    return next((folder for folder in path.parents if PARTIAL.fullmatch(folder.name)), None)


def _make_folder(folder: Path, partial: Path | None) -> None:
    if partial is None:
        folder.mkdir(parents=True, exist_ok=True)
    elif folder != partial:
        for part in reversed([folder, *folder.parents][: len(folder.relative_to(partial).parts)]):
            part.mkdir(exist_ok=True)  # Without parents: FileNotFoundError if the partial directory is gone.


def taken_away(directory: Path) -> StageError:
    """Return the error for a directory that another process has renamed, committed or deleted meanwhile."""
    return StageError(
        f"{directory} has changed or is gone: another process has continued, committed or deleted it. Do two machines "
        "build the same directory, on a disk whose locks hold only within each machine (see: xdc doctor)? Nothing is "
        "lost: run this again."
    )


def part_name(shard: str, folder: str = DATA) -> str:
    """Return the name under which the part of a shard is written, relative to its directory."""
    return f"{folder}/{shard}.parquet"


def part_path(directory: Path, shard: str, folder: str = DATA) -> Path:
    """Return the path of the part of a shard in a directory of any format."""
    has_folder = os.path.isdir(os.path.join(directory, folder))
    return directory / (part_name(shard, folder) if has_folder else f"{shard}.parquet")


def part_among(names: Collection[str], shard: str, folder: str = DATA) -> str | None:
    """Return the name of the part of a shard among the names of a directory's files; None if it is not there."""
    return next((name for name in (part_name(shard, folder), f"{shard}.parquet") if name in names), None)


def parts_of(directory: Path, folder: str = DATA) -> list[str]:
    """Return the names of the shards that have a part in a directory of any format, in order."""
    return sorted(path.stem for path in part_path(directory, "0", folder).parent.glob("[0-9]*.parquet"))


def link_or_copy(path: Path, target: Path) -> None:
    """Link a committed file, or copy it where there are no links. Nobody writes into it: directories may share it."""
    try:
        os.link(path, target)
    except OSError:  # Not all file systems have links, and none has any number of them.
        shutil.copy2(path, target)
        sync(target)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (UTF-8): a reader sees the old file or the new one."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
