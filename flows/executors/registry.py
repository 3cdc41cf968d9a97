"""The executors by name."""

from pydantic import ValidationError

from flows.executors.kind import ExecutorKind
from flows.executors.local import LOCAL
from flows.executors.ray.executor import RAY
from flows.executors.slurm.executor import SLURM
from shards.errors import ConfigError
from shards.registry import Registry
from shards.store.executor import Executor
from xdc_core.config.schema import RunsOn

EXECUTORS: Registry[ExecutorKind] = Registry(
    "executor", "xdc.executors", {kind.name: kind for kind in (LOCAL, SLURM, RAY)}, ExecutorKind
)


def check_executor(runs_on: RunsOn) -> None:
    """Check that the executor of a configuration can be used here.

    Raises:
        ConfigError: there is no such executor, it has no such setting, or what it needs is not there.
    """
    kind = EXECUTORS.find(runs_on.executor)
    kind.check(_settings(kind, runs_on), runs_on)


def executor_of(runs_on: RunsOn) -> Executor:
    """Return the executor of a configuration, for one stage. Raises ConfigError for an unknown executor or setting."""
    kind = EXECUTORS.find(runs_on.executor)
    return kind.make(_settings(kind, runs_on), runs_on)


def _settings(kind: ExecutorKind, runs_on: RunsOn) -> object:
    try:
        return kind.settings.model_validate(runs_on.executor_settings)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise ConfigError(f"runs_on.executor_settings of the executor {kind.name}: {wrong}.") from None
