"""The settings of the executor `slurm`, and what they are for sbatch and srun."""

from typing import Any

from pydantic import Field, field_validator

from shards.section import Section


class SlurmSettings(Section):
    """The executor_settings of the executor `slurm`."""

    partition: str | None = Field(None, description="partition, or several with commas; null: the cluster's default")
    time: str | None = Field(
        None, description='time limit of a task, as in sbatch and in quotes, "2:00:00"; null: the partition\'s default'
    )
    cpus: int = Field(4, ge=1, description="processor cores of a task")
    gpus: int | None = Field(
        None,
        ge=0,
        description="GPUs of a task whose stage can use one; null: 1, with runs_on.device auto only if the partition "
        "has some",
    )
    memory: str | None = Field(
        None, description="memory of a task, for example 16G; without a unit MB; null: the cluster's default"
    )
    options: tuple[str, ...] = Field((), description="further options of sbatch, for example [--account=lab]")
    setup: tuple[str, ...] = Field(
        (), description="lines of shell before Python starts, for example [module load cuda]"
    )
    python: str | None = Field(None, description="Python on the nodes; null: the path of the one that runs the stage")
    tasks: int = Field(16, ge=1, description="tasks that run at the same time")
    units_per_task: int | None = Field(
        None, ge=1, description="most units that a task does; null: 30, or a quarter of an equal share if that is more"
    )
    array: int = Field(1000, ge=1, description="tasks of one array; never more than the cluster's MaxArraySize")
    tries: int = Field(3, ge=1, description="arrays in a row that store nothing before the stage fails")
    grace: int = Field(
        60,
        ge=1,
        description="seconds before the time limit at which a task finishes its shard and ends; and seconds for all "
        "agents of a training to end when one has ended",
    )

    @field_validator("memory", mode="before")
    @classmethod
    def _megabytes(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("time", mode="before")
    @classmethod
    def _quoted(cls, value: Any) -> Any:
        if isinstance(value, int | float):
            raise ValueError(f'write it in quotes, as "2:00:00": YAML reads 2:00:00 as a number of seconds ({value})')
        return value


def resources(settings: SlurmSettings, gpus: int, processes: int = 1) -> list[str]:
    """Return the options of sbatch and srun for a task.

    gpus: of one process. processes: how many in the task use `settings.cpus` and `gpus` each.
    """
    given = {"--partition": settings.partition, "--time": settings.time, "--mem": settings.memory}
    options = [f"{name}={value}" for name, value in given.items() if value is not None]
    options.append(f"--cpus-per-task={settings.cpus * processes}")
    if gpus:
        options.append(f"--gres=gpu:{gpus * processes}")
    return [*options, *settings.options]
