"""The task of a node, made from its run and configuration."""

from pathlib import Path

from shards.progress import Progress, silent
from shards.store.node import Node
from shards.store.stage import SettingsT, Stage, Task
from xdc_core.config.schema import Config
from xdc_core.runs.run import Run


def task_of(
    stage: Stage[Config, Run, SettingsT],
    run: Run,
    node: Node,
    out: Path,
    progress: Progress = silent,
    outside: dict[str, str] | None = None,
) -> Task[SettingsT]:
    """Return the task of a node that writes into `out`. `outside`: the stage's digests for the node, if known.

    Raises:
        ConfigError: a file outside the run that the stage reads is missing.
    """
    return Task(
        node=node,
        settings=stage.settings(run.config, node),
        inputs={source: run.directory(source) for source in stage.inputs(run.config, node)},
        out=out,
        target=run.directory(node),
        root=run.root,
        listed={other: run.directory(other) for other in stage.lists(run.config, node)},
        outside=stage.outside(run, node) if outside is None else outside,
        progress=progress,
    )
