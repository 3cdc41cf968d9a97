"""The settings of the executor `slurm`, and what they are for sbatch and srun."""

from pydantic import Field

from shards.section import Section


class SlurmSettings(Section):
    """The executor_settings of the executor `slurm`."""

    partition: str | None = Field(None, description="partition, or several with commas; null: the cluster's default")
    time: str | None = Field(None, description="time limit of a task, as in sbatch; null: the partition's default")
    cpus: int = Field(4, ge=1, description="processor cores of a task")
    gpus: int = Field(1, ge=0, description="GPUs of a task whose stage can use one")
    memory: str | None = Field(None, description="memory of a task, for example 16G; null: the cluster's default")
    options: tuple[str, ...] = Field((), description="further options of sbatch, for example [--account=lab]")
    setup: tuple[str, ...] = Field(
        (), description="lines of shell before Python starts, for example [module load cuda]"
    )
    python: str | None = Field(None, description="Python on the nodes; null: the path of the one that runs the stage")
    tasks: int = Field(16, ge=1, description="tasks that run at the same time")
    units_per_task: int = Field(30, ge=1, description="units that a task does, unless there are too few for all tasks")
    array: int = Field(1000, ge=1, description="tasks of one array; never more than the cluster's MaxArraySize")
    tries: int = Field(3, ge=1, description="arrays in a row that store nothing before the stage fails")
    grace: int = Field(
        60,
        ge=1,
        description="seconds before the time limit at which a task finishes its shard and ends; and seconds for all "
        "agents of a training to end when one has ended",
    )


def resources(settings: SlurmSettings, gpu: bool, processes: int = 1) -> list[str]:
    """Return the options of sbatch and srun for a task. processes: how many in it use `cpus` and `gpus` each."""
    given = {"--partition": settings.partition, "--time": settings.time, "--mem": settings.memory}
    options = [f"{name}={value}" for name, value in given.items() if value is not None]
    options.append(f"--cpus-per-task={settings.cpus * processes}")
    if gpu and settings.gpus:
        options.append(f"--gres=gpu:{settings.gpus * processes}")
    return [*options, *settings.options]
