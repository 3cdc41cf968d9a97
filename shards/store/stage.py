"""What a stage is: its name and version, its nodes, what they read, which settings decide their files, and the work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from shards.progress import Progress, silent
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
    """Return no digests: the stage reads nothing but what other stages wrote."""
    return {}


class HashedSettings(Protocol):
    """What a stage's work is given of the configuration."""

    def hashed(self) -> dict[str, Any]:
        """Return what decides the files that the work writes, as JSON has it: it enters the fingerprint."""


SettingsT = TypeVar("SettingsT", bound=HashedSettings)


@dataclass(frozen=True)
class Task(Generic[SettingsT]):
    """All that a stage's work is given: it sees no other settings and no other directories.

    settings: its part of the configuration. inputs: the directories of the nodes that it reads, in declared order.
    listed: those of nodes of which it may only show that they are there.
    out: the partial directory into which it writes. target: where that will lie; what stands there now is of the call
    before. root: the run's directory, for names, messages and commands. outside: digests of what it reads from outside.
    """

    node: Node
    settings: SettingsT
    inputs: Mapping[Node, Path]
    out: Path
    target: Path
    root: Path
    listed: Mapping[Node, Path] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)
    progress: Progress = silent

    @property
    def about(self) -> str:
        """The modality, label source, data set or evaluation that the node is about."""
        return str(self.node.modality)

    @property
    def round(self) -> int:
        """The number of the node's round."""
        assert self.node.round is not None
        return self.node.round

    def directory(self, node: Node) -> Path:
        """Return the directory of an input.

        Raises:
            LookupError: the stage does not declare this input: a defect.
        """
        if node not in self.inputs:
            raise LookupError(f"{self.node} reads {node}, which its stage does not declare as an input")
        return self.inputs[node]

    def shown_directory(self, node: Node) -> Path:
        """Return the directory of an input, or of a node of which the work may show that it is there."""
        return self.listed[node] if node in self.listed else self.directory(node)

    def directories(self, stage: str) -> list[Path]:
        """Return the directories of all inputs that a stage wrote, in declared order."""
        return [path for node, path in self.inputs.items() if node.stage == stage]


def builds_itself(task: Task[Any]) -> Outcome:
    """Raise NotImplementedError: the stage has `build`, and no work of its own in a partial directory."""
    raise NotImplementedError(f"{task.node} is built by its stage's `build`.")


@dataclass(frozen=True)
class Stage(Generic[ConfigT, RunT, SettingsT]):
    """Everything that is said of one stage. The graph, the command line and Prefect's deployments follow from it.

    name: as in `xdc stage NAME`, and in manifests.
    version: raised when the same settings and inputs would give other files.
    summary: one sentence for the command's help.
    folder: where its directories lie, in a round or in the run.
    of: what a node is about: a modality (or label source), the name of a data set or evaluation, or nothing.
    each_round: whether its nodes belong to rounds, or are done once a run.
    library: which of two heavy libraries the process of a node needs; a function where nodes differ.
    modules: what the work imports. A process that forks a child per node imports them once, ahead.
    nodes: the nodes that a configuration has in a round (None: before the first round).
    inputs: the nodes whose directories a node reads.
    settings: the part of the configuration that the work is given; what is hashed of it enters the fingerprint.
    work: writes a node's files into a partial directory.
    lists: nodes of which the work may show that they are there; they are no inputs, and enter no fingerprint.
    outside: digests of what a node reads from outside the run, by what it is; they enter the fingerprint.
    build: replaces the work where the fingerprint is known only after files from outside were read: (run, node,
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
    settings: Callable[[ConfigT, Node], SettingsT]
    work: Callable[[Task[SettingsT]], Outcome]
    lists: Callable[[ConfigT, Node], list[Node]] = reads_no_stage
    outside: Callable[[RunT, Node], dict[str, str]] = reads_no_file
    build: Callable[[RunT, Node, Progress, bool], Record] | None = None

    def library_of(self, config: ConfigT, node: Node) -> Library:
        """Return the library that the process of a node needs."""
        return self.library(config, node) if callable(self.library) else self.library
