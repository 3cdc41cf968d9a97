"""The files below a folder, one by one: no list of them is held."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shards.media.source_file import EVERYWHERE

# Folders in folders that are open at once while their entries are read; entries of deeper ones are listed first.
OPEN_FOLDERS = 64


@dataclass(frozen=True, slots=True)
class Found:
    """A file, a link to a folder, or a folder that cannot be read. `name` is relative to the walked folder."""

    name: str
    kind: Literal["file", "link", "unreadable"]
    error: str = ""


def walk(folder: Path, hidden: bool = False, ordered: bool = False) -> Iterator[Found]:
    """Yield every file below `folder`. Links to folders are not followed.

    Files and folders whose names begin with a dot are left out, except with `hidden`. Names that are not valid UTF-8
    have surrogates. With `ordered` they come in the order of their parts (as sorted Path objects), for which the names
    in one folder are held; else in the order of the file system.

    Raises:
        OSError: no file can be opened any more (too many open files, no memory).
    """
    stack = [("", _entries(str(folder), 0, ordered))]
    while stack:
        above, entries = stack[-1]
        try:
            name, kind = next(entries, ("", "end"))
        except OSError as error:
            stack.pop()
            if error.errno in EVERYWHERE:
                raise
            yield Found(above.rstrip("/") or ".", "unreadable", error.strerror or str(error))
            continue
        if kind == "end":
            stack.pop()
        elif not hidden and name.startswith("."):
            continue
        elif kind == "folder":
            stack.append((f"{above}{name}/", _entries(os.path.join(folder, above, name), len(stack), ordered)))
        else:
            yield Found(above + name, "link" if kind == "link" else "file")


def _entries(folder: str, depth: int, ordered: bool) -> Iterator[tuple[str, str]]:
    """Yield names and kinds: file, folder, or link (to a folder)."""
    with os.scandir(folder) as entries:
        if depth < OPEN_FOLDERS and not ordered:
            for entry in entries:
                yield entry.name, _kind(entry)
            return
        names, others = list[str](), dict[str, str]()
        for entry in entries:
            names.append(entry.name)
            if (kind := _kind(entry)) != "file":
                others[entry.name] = kind
    names.sort()
    for name in names:
        yield name, others.get(name, "file")


def _kind(entry: "os.DirEntry[str]") -> str:
    try:
        if not entry.is_dir():
            return "file"
    except OSError:  # Of a link that cannot be followed.
        return "file"
    return "link" if entry.is_symlink() else "folder"


def is_unicode(name: str) -> bool:
    """Return whether a name from the file system is valid UTF-8."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def shown(name: str) -> str:
    """Return a printable form of a name that need not be UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
