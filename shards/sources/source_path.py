"""The stored path of a manifest's file: the same for every way to write it."""

import os
from functools import cache
from pathlib import Path

from shards.settings import is_url


class SourcePaths:
    """Paths in a manifest in `folder`.

    Links are not followed: a link and its target are two files, as in a listed folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = os.path.realpath(folder)
        # The folder may be a link, and the manifest may use either path for its files.
        self._above = tuple(base.rstrip("/") + "/" for base in (self._folder, os.path.abspath(folder)))
        self._real = cache(os.path.realpath)  # Of folders: a manifest has few of them and many files.

    def stored(self, name: str) -> str:
        """Return the path without `.`, `..` and `//`, relative to the folder if the file is below it.

        If `..` follows a link to a folder, the path without both would name another file: then the path is returned as
        it is written. So is the URL of an object.
        """
        if is_url(name):
            return name
        full = self._absolute(name)
        if ".." in name.split("/") and not self._is_same(os.path.join(self._folder, name), full):
            return name
        for above in self._above:
            if full.startswith(above):
                return full[len(above) :]
        return full if name.startswith("/") else os.path.normpath(name)

    def identity(self, stored: str) -> str:
        """Return the absolute path of a stored path: `../a.mp4` and the absolute path of this file give the same."""
        if is_url(stored):
            return stored
        if stored != os.path.normpath(stored):
            return os.path.realpath(os.path.join(self._folder, stored))
        return self._absolute(stored)

    def _is_same(self, written: str, full: str) -> bool:
        (folder, name), (other, _) = os.path.split(written), os.path.split(full)
        if name not in ("", ".", "..") and self._real(folder) == self._real(other):
            return True
        return os.path.realpath(written) == os.path.realpath(full)

    def _absolute(self, name: str) -> str:
        full = os.path.normpath(os.path.join(self._folder, name))
        return full[1:] if full.startswith("//") else full  # POSIX keeps two slashes at the beginning.
