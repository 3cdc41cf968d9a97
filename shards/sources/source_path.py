"""The path under which a manifest's file is stored: one for every way to write it."""

import os
from pathlib import Path


class SourcePaths:
    """The paths in a manifest that lies in `folder`.

    Links are not followed: a link and its target are two files, as in a listed folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = os.path.realpath(folder)
        # The folder may be reached by a link, and the manifest may name its files by either path.
        self._above = tuple(base.rstrip("/") + "/" for base in (self._folder, os.path.abspath(folder)))

    def stored(self, name: str) -> str:
        """Return the path without `.`, `..` and `//`, relative to the folder where the file lies below it.

        A `..` that follows a link to a folder leads elsewhere than the path without the two: then the path stays as
        it is written.
        """
        full = self._absolute(name)
        if ".." in name.split("/") and os.path.realpath(os.path.join(self._folder, name)) != os.path.realpath(full):
            return name
        for above in self._above:
            if full.startswith(above):
                return full[len(above) :]
        return full if name.startswith("/") else os.path.normpath(name)

    def identity(self, stored: str) -> str:
        """Return the absolute path of what `stored` returned: `../a.mp4` and the path that it means have the same."""
        if stored != os.path.normpath(stored):
            return os.path.realpath(os.path.join(self._folder, stored))
        return self._absolute(stored)

    def _absolute(self, name: str) -> str:
        full = os.path.normpath(os.path.join(self._folder, name))
        return full[1:] if full.startswith("//") else full  # POSIX lets two slashes at the beginning stand.
