"""The bytes of a run on disk, by kind."""

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shards.store.commit import STALE
from xdc_core.graph.stages import setup_nodes
from xdc_core.runs.corpora import is_corpus
from xdc_core.runs.node import FOLDERS, Node
from xdc_core.runs.run import Run

PARTIAL, EARLIER, LEFT_OVER, CLIPS = "partial directories", "earlier generations", "left over", "clips"
# By the stage whose files they are, in the order in which they are shown.
KINDS = {
    "extract": "features",
    "embed": "features of data sets",
    "cluster": "clusters",
    "label": "labels",
    "teachers": "labels",
    "init": "encoders",
    "train": "encoders",
    "eval": "evaluations",
    "maps": "search",
    "search": "search",
    "stop": "reports",
    "report": "reports",
}
OTHERS = ("logs", PARTIAL, EARLIER, LEFT_OVER, CLIPS, "other")
STAGE_OF_FOLDER = {folder: stage for stage, folder in FOLDERS.items()}


@dataclass(frozen=True)
class Usage:
    """Files of one kind. A file with several names is counted once.

    linked: those of its `bytes` that also have a name elsewhere, outside the run: removing them here frees nothing.
    """

    kind: str
    files: int
    bytes: int
    linked: int


def usage(run: Run) -> list[Usage]:
    """Return what takes space below a run's directory, by kind. A corpus elsewhere is not counted.

    The names of all files are read, but no file.
    """
    corpora = [place.resolve() for place in corpora_of(run)]
    root = run.root.resolve()
    by_kind: dict[str, list[Path]] = defaultdict(list)
    for path in files_below(root):
        inside = any(path.is_relative_to(place) for place in corpora)
        by_kind[CLIPS if inside else kind_of(path.relative_to(root))].append(path)
    names = _names(path for paths in by_kind.values() for path in paths)
    order = [*dict.fromkeys(KINDS.values()), *OTHERS]
    counted: set[tuple[int, int]] = set()
    return [measure(kind, by_kind[kind], names, counted) for kind in order if by_kind[kind]]


def corpora_of(run: Run) -> list[Path]:
    """Return the directories of clips of a run: its corpus, and the data sets to evaluate on."""
    nodes = [*setup_nodes(run.config), *(Node("data", name) for name in run.config.datasets)]
    return list(dict.fromkeys(run.directory(node) for node in nodes if is_corpus(node)))


def kind_of(path: Path) -> str:
    """Return the kind of a file from its path relative to the run's directory."""
    for part in path.parts[:-1]:
        if part == STALE:
            return EARLIER
        if part.startswith(".") and part.endswith(".partial"):
            return PARTIAL
        if part.startswith(".") and part.endswith(".removed"):
            return LEFT_OVER
    match path.parts:
        case ("init", _, *_):
            return KINDS["init"]
        case ("rounds", _, folder, _, *_):
            return KINDS.get(STAGE_OF_FOLDER.get(folder, ""), "other")
        case ("logs", *_):
            return "logs"
        case ("overview.html",):
            return KINDS["report"]
    return "other"


def files_below(directory: Path) -> Iterator[Path]:
    """Yield all files below a directory. Links to directories are not followed."""
    for folder, _, names in os.walk(directory):
        yield from (Path(folder, name) for name in names)


def measure(
    kind: str,
    paths: Iterable[Path],
    names: dict[tuple[int, int], int] | None = None,
    counted: set[tuple[int, int]] | None = None,
) -> Usage:
    """Return number and bytes of files. names: how many names a file has here; without it, those in `paths`.

    Files in `counted` are not counted again; those of `paths` are added to it.
    """
    paths, counted = list(paths), set() if counted is None else counted
    names = _names(paths) if names is None else names
    files = total = linked = 0
    for found in _stats(paths):
        key = found.st_dev, found.st_ino
        if key in counted:
            continue
        counted.add(key)
        files, total = files + 1, total + found.st_size
        linked += found.st_size if found.st_nlink > names.get(key, 1) else 0
    return Usage(kind, files, total, linked)


def _names(paths: Iterable[Path]) -> dict[tuple[int, int], int]:
    names: dict[tuple[int, int], int] = defaultdict(int)
    for found in _stats(paths):
        if found.st_nlink > 1:
            names[found.st_dev, found.st_ino] += 1
    return names


def _stats(paths: Iterable[Path]) -> Iterator[os.stat_result]:
    for path in paths:
        try:
            found = os.lstat(path)
        except FileNotFoundError:  # Another process has just renamed or removed it.
            continue
        if stat.S_ISREG(found.st_mode):
            yield found
