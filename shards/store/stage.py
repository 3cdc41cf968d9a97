"""The description of a stage: name, version, nodes, inputs, the settings that decide its files, and its work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from shards.progress import Progress, silent
from shards.store.build import Outcome, Record
from shards.store.executor import IN_PROCESS, Executor
from shards.store.node import Node

ConfigT = TypeVar("ConfigT")
RunT = TypeVar("RunT")

# faiss brings other CUDA libraries than torch: no process loads both.
Library = Literal["torch", "faiss"]


def reads_no_stage(config: Any, node: Node) -> list[Node]:
    """Return no inputs: the stage reads only files outside the run."""
    return []


def reads_no_file(run: Any, node: Node) -> dict[str, str]:
    """Return no digests: the stage reads only what other stages wrote."""
    return {}


class HashedSettings(Protocol):
    """The part of the configuration for a stage's work."""

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide the written files, as JSON values. They enter the fingerprint."""


SettingsT = TypeVar("SettingsT", bound=HashedSettings)


@dataclass(frozen=True)
class Task(Generic[SettingsT]):
    """The arguments of a stage's work, which uses no other settings and directories.

    settings: the stage's part of the configuration. inputs: the directories of the input nodes, in declared order.
    listed: directories that the work may read as far as they are there, but on which its fingerprint does not depend.
    out: the partial directory for the work's files. target: the final path, at which an earlier result may exist. root:
    the run's directory, for names, messages and commands. outside: digests of the files outside the run that the work
    reads.
    executor: does the units of a work that has some. forced: whether nothing of an earlier result may be kept.
    document: the task as JSON values, for workers in other processes; a work passes it on and does not read it.
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
    executor: Executor = IN_PROCESS
    forced: bool = False
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> str:
        """Return the modality, label source, data set or evaluation of the node."""
        return str(self.node.modality)

    @property
    def round(self) -> int:
        """Return the number of the node's round."""
        assert self.node.round is not None
        return self.node.round

    def directory(self, node: Node) -> Path:
        """Return the directory of an input.

        Raises:
            LookupError: the stage does not declare this input, which is a defect.
        """
        if node not in self.inputs:
            raise LookupError(f"{self.node} reads {node}, which its stage does not declare as an input")
        return self.inputs[node]

    def shown_directory(self, node: Node) -> Path:
        """Return the directory of an input, or of a node in `listed`."""
        return self.listed[node] if node in self.listed else self.directory(node)

    def directories(self, stage: str) -> list[Path]:
        """Return the directories of all inputs that a stage wrote, in declared order."""
        return [path for node, path in self.inputs.items() if node.stage == stage]


def builds_itself(task: Task[Any]) -> Outcome:
    """Raise NotImplementedError: the stage has `build` and therefore no `work`."""
    raise NotImplementedError(f"{task.node} is built by its stage's `build`.")


@dataclass(frozen=True)
class Stage(Generic[ConfigT, RunT, SettingsT]):
    """The description of one stage. The graph, the command line and Prefect's deployments follow from it.

    name: as in `xdc stage NAME`, and in manifests.
    version: raised when the same settings and inputs would give other files.
    summary: one sentence for the command's help.
    folder: where its directories are, in a round or in the run.
    of: what distinguishes its nodes: a modality (or label source), the name of a data set or evaluation, or nothing.
    each_round: whether its nodes belong to rounds; if false, they are built once per run.
    library: which of two heavy libraries the process of a node needs; a function if nodes differ.
    modules: modules that the work imports. A process that forks a child per node imports them once, in advance. If
        nodes differ in their library, these are the modules of those with faiss.
    nodes: the nodes that a configuration has in a round (None: before the first round).
    inputs: the nodes whose directories a node reads.
    settings: the part of the configuration for the work; its hashed settings enter the fingerprint.
    work: writes a node's files into a partial directory.
    lists: nodes whose directories the work may read as far as they are there, such as those of earlier rounds; they
        are not inputs and do not enter the fingerprint.
    outside: named digests of files outside the run that a node reads; they enter the fingerprint.
    build: replaces the work if the fingerprint is known only after reading files outside the run: (run, node,
        progress, force, executor) -> record.
    cleanable: patterns of the names of large files that nothing reads once all nodes that read them are finished.
        `xdc clean` removes those of earlier rounds; manifest.json and all other files stay.
    unit: what its rows are, in the singular. counted: the name of a number in the manifest's summary that the unit
        counts instead of the rows.
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
    build: Callable[[RunT, Node, Progress, bool, Executor], Record] | None = None
    cleanable: tuple[str, ...] = ()
    unit: str = "row"
    counted: str | None = None

    def amount(self, rows: int, summary: Mapping[str, Any]) -> str:
        """Return what a node has made, in words: `48 clips`, `1 encoder`.

        rows, summary: of its manifest or record.
        """
        count = rows if self.counted is None else summary.get(self.counted, 0)
        return f"{count} {self.unit}{'' if count == 1 else 's'}"

    def library_of(self, config: ConfigT, node: Node) -> Library:
        """Return the library that the process of a node needs."""
        return self.library(config, node) if callable(self.library) else self.library
