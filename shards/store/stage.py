"""The description of a stage: name, version, nodes, inputs, the settings that decide its files, and its work."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from shards.progress import Progress
from shards.store.build import Outcome, Record
from shards.store.node import Node

ConfigT = TypeVar("ConfigT")
RunT = TypeVar("RunT")

# faiss brings other CUDA libraries than torch: no process loads both.
Library = Literal["torch", "faiss"]


def reads_no_stage(config: Any, node: Node) -> list[Node]:
    """Return no inputs: the stage begins with files from outside."""
    return []


def reads_no_file(run: Any, node: Node) -> dict[str, str]:
    """Return no digests: the stage reads only what other stages wrote."""
    return {}


def builds_itself(run: Any, node: Node, out: Path, progress: Progress) -> Outcome:
    """Raise NotImplementedError: the stage has `build` and therefore no `work`."""
    raise NotImplementedError(f"{node} is built by its stage's `build`.")


@dataclass(frozen=True)
class Stage(Generic[ConfigT, RunT]):
    """The description of one stage. The graph, the command line and Prefect's deployments follow from it.

    name: as in `xdc stage NAME`, and in manifests.
    version: raised when the same settings and inputs would give other files.
    summary: one sentence for the command's help.
    folder: where its directories are, in a round or in the run.
    of: what a node is for: a modality (or label source), the name of a data set or evaluation, or nothing.
    each_round: whether its nodes belong to rounds, or are done once per run.
    library: which of two heavy libraries the process of a node needs; a function if nodes differ.
    modules: what the work imports. A process that forks a child per node imports them once, in advance.
    nodes: the nodes that a configuration has in a round (None: before the first round).
    inputs: the nodes whose directories a node reads.
    settings: the part of the configuration that decides the contents of a node's files; it enters the fingerprint.
    work: writes a node's files into a partial directory.
    outside: digests of files outside the run that a node reads, by what they are; they enter the fingerprint.
    build: replaces the work if the fingerprint is known only after files from outside were read: (run, node,
        progress, force) -> record.
    """

    name: str
    version: int
    summary: str
    folder: str
    of: Literal["modality", "name", None]
    each_round: bool
    library: Library | Callable[[ConfigT, Node], Library]
    modules: tuple[str, ...]
    nodes: Callable[[ConfigT, int | None], list[Node]]
    inputs: Callable[[ConfigT, Node], list[Node]]
    settings: Callable[[ConfigT, Node], dict[str, Any]]
    work: Callable[[RunT, Node, Path, Progress], Outcome]
    outside: Callable[[RunT, Node], dict[str, str]] = reads_no_file
    build: Callable[[RunT, Node, Progress, bool], Record] | None = None

    def library_of(self, config: ConfigT, node: Node) -> Library:
        """Return the library that the process of a node needs."""
        return self.library(config, node) if callable(self.library) else self.library
