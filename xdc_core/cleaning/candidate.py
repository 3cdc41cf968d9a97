"""What can be removed, and what is kept although it was looked at."""

from dataclasses import dataclass
from pathlib import Path

from shards.store.node import Node


@dataclass(frozen=True)
class Readers:
    """The nodes that read a node's files. due: those that a run makes. asked: evaluations that a user may ask for."""

    due: tuple[Node, ...] = ()
    asked: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A directory that can be removed, or whose large files can.

    kind: as in the table of bytes. why: why nothing needs it. target: the directory that is locked meanwhile. node:
    the node whose large files are removed; None: the whole directory is. readers: the nodes that read these files, none
    of which must be in progress.
    """

    path: Path
    kind: str
    why: str
    target: Path
    node: Node | None = None
    readers: Readers = Readers()


@dataclass(frozen=True)
class Kept:
    """A directory that was looked at and is not removed, with the reason."""

    path: str
    why: str
