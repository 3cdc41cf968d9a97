"""The executor for one machine: all units in the stage's own process."""

from flows.executors.kind import ExecutorKind
from shards.section import Section
from shards.store.executor import IN_PROCESS, Executor
from xdc_core.config.schema import RunsOn


class LocalSettings(Section):
    """The local executor has no settings."""


def _check(settings: LocalSettings, runs_on: RunsOn) -> None:
    """Do nothing: this machine is there."""


def _make(settings: LocalSettings, runs_on: RunsOn) -> Executor:
    return IN_PROCESS


LOCAL = ExecutorKind("local", LocalSettings, _check, _make)
