"""What the executor `slurm` decides without Slurm."""

import pytest

from flows.executors.registry import check_executor
from flows.executors.slurm.array import shares
from flows.executors.slurm.settings import SlurmSettings
from shards.errors import ConfigError
from xdc_core.config.schema import RunsOn


def test_a_machine_without_slurm_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"this machine has no sbatch, .*runs_on\.executor to local") as raised:
        check_executor(RunsOn(executor="slurm"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("units", "tasks", "units_per_task", "most", "sizes"),
    [
        (10, 4, 30, 1000, [3, 3, 3, 1]),  # All tasks have work.
        (2, 16, 30, 1000, [1, 1]),
        (100, 4, 10, 1000, [10] * 10),  # Tasks wait for others to end.
        (100, 4, 10, 5, [20] * 5),  # The array may not be longer.
    ],
)
def test_units_are_shared_out_among_tasks(
    units: int, tasks: int, units_per_task: int, most: int, sizes: list[int]
) -> None:
    lines = list(range(0, 2 * units, 2))
    shared = list(shares(lines, SlurmSettings(tasks=tasks, units_per_task=units_per_task), most))
    assert [len(share) for share in shared] == sizes
    assert [line for share in shared for line in share] == lines
