"""The description of an executor that a configuration can name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shards.section import Section
from shards.store.executor import Executor
from xdc_core.config.schema import RunsOn


@dataclass(frozen=True)
class ExecutorKind:
    """An executor by name.

    name: as in `runs_on.executor`. settings: the class of `runs_on.executor_settings`. check: raises ConfigError, in
    one line and before any work, if the executor cannot be used here with its settings. make: returns the executor of
    one stage. several_machines: whether workers may be on other machines, with which the disk is shared.
    """

    name: str
    settings: type[Section]
    check: Callable[[Any, RunsOn], None]
    make: Callable[[Any, RunsOn], Executor]
    several_machines: bool = True
