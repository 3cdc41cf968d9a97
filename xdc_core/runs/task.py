"""The task of a node, made from its run and configuration, and the job of its units."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from shards.progress import Progress, silent
from shards.store.executor import IN_PROCESS, Executor, Job
from shards.store.node import Node
from shards.store.stage import SettingsT, Stage, Task
from xdc_core.config.load import parse_config
from xdc_core.config.schema import Config
from xdc_core.runs.node import SHARD
from xdc_core.runs.run import Run


def task_of(
    stage: Stage[Config, Run, SettingsT],
    run: Run,
    node: Node,
    out: Path,
    progress: Progress = silent,
    outside: dict[str, str] | None = None,
    executor: Executor = IN_PROCESS,
    forced: bool = False,
    corpus: Path | None = None,
) -> Task[SettingsT]:
    """Return the task of a node that writes into `out`. `outside`: the stage's digests for the node, if known.

    corpus: where the run's corpus is read, if not in its place.

    Raises:
        ConfigError: a file outside the run that the stage reads is missing.
    """
    digests = stage.outside(run, node) if outside is None else outside

    def place(source: Node) -> Path:
        return corpus if corpus is not None and source == SHARD else run.directory(source)

    return Task(
        node=node,
        settings=stage.settings(run.config, node),
        inputs={source: place(source) for source in stage.inputs(run.config, node)},
        out=out,
        target=run.directory(node),
        root=run.root,
        listed={other: place(other) for other in stage.lists(run.config, node)},
        outside=digests,
        progress=progress,
        executor=executor,
        forced=forced,
        document={
            "run": str(run.root.resolve()),
            "config": run.config.model_dump(mode="json"),
            "node": [node.stage, node.modality, node.round],
            "out": str(out.resolve()),
            "outside": digests,
            "corpus": None if corpus is None else str(corpus.resolve()),
        },
    )


def task_of_document(stage: Stage[Config, Run, SettingsT], document: Mapping[str, Any]) -> Task[SettingsT]:
    """Return the task that `Task.document` describes, in another process, with the configuration of that time."""
    root = Path(document["run"])
    run = Run(root, parse_config(document["config"], f"the configuration of {root}"))
    node, out, corpus = Node(*document["node"]), Path(document["out"]), document["corpus"]
    outside = dict(document["outside"])
    return task_of(stage, run, node, out, outside=outside, corpus=None if corpus is None else Path(corpus))


def unit_logs(root: Path) -> Path:
    """Return the folder for the output of a run's workers."""
    return root.resolve() / "logs" / "units"


def job_of(task: Task[Any], work: str, library: Literal["torch", "faiss"], gpu: bool = False, **arguments: Any) -> Job:
    """Return the job of a task's units. work: "module:function". arguments: JSON values for it, beside the task."""
    return Job(
        name=str(task.node),
        work=work,
        arguments={"task": dict(task.document), **arguments},
        out=str(task.out.resolve()),
        logs=str(unit_logs(task.root)),
        library=library,
        gpu=gpu,
    )
