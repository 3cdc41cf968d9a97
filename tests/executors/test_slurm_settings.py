"""What the executor `slurm` decides without Slurm: its tools are scripts here. With a cluster: tests/engines."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.executors.registry import check_executor
from flows.executors.slurm import jobs, tools
from flows.executors.slurm.array import Array, array_name, gave_up, remove_logs, shares
from flows.executors.slurm.executor import Slurm
from flows.executors.slurm.settings import SlurmSettings
from shards.errors import ConfigError, StageError
from shards.store.commit import partial_directory
from shards.store.executor import Job, Unit, uncounted
from shards.store.receipt import ERRORS, UNITS
from shards.store.units import begin_units
from shards.workers.worker import note_error
from xdc_core.config.schema import RunsOn

Tools = Callable[..., Path]


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """Makes Slurm's tools: scripts of shell, by name; each call is noted in `calls`."""
    folder = tmp_path / "bin"

    def make(**lines: str) -> Path:
        folder.mkdir(exist_ok=True)
        usual = {"sinfo": 'case "$*" in *%G*) echo "main* (null)";; *) echo main;; esac', "squeue": ":", "scancel": ":"}
        usual |= {"sbatch": "echo 7", "scontrol": "echo 'MaxArraySize = 1001'"}
        for name, line in (usual | lines).items():
            (folder / name).write_text(f'#!/bin/sh\necho {name} "$*" >> {folder}/calls\n{line}\n')
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return folder / "calls"

    monkeypatch.setattr(tools, "AGAIN_S", 0.01)
    return make


def job_in(folder: Path, fingerprint: str = "0" * 12) -> Job:
    """A job whose partial directory is there, with one shard to do."""
    out = partial_directory(folder / "features.video", fingerprint)
    out.mkdir(parents=True)
    begin_units(out, ["000000"])
    (folder / "logs").mkdir(exist_ok=True)
    return Job("extract.video", "nothing:nothing", {}, str(out), str(folder / "logs"), "torch", gpu=True)


def run_one(job: Job, settings: SlurmSettings, shown: Callable[..., None] = uncounted) -> None:
    Slurm(settings).run(job, [Unit(0, ("000000",))], lambda receipt: None, shown)


def test_a_machine_without_slurm_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"this machine has no sbatch, .*runs_on\.executor to local") as raised:
        check_executor(RunsOn(executor="slurm"))
    assert "\n" not in str(raised.value)


def test_trainings_on_several_machines_need_srun_too(scripts: Tools) -> None:
    scripts()
    check_executor(RunsOn(executor="slurm"))
    with pytest.raises(ConfigError, match="this machine has no srun"):
        check_executor(RunsOn(executor="slurm", nodes=2))


def test_a_cluster_without_job_arrays_is_an_error_before_work_starts(scripts: Tools) -> None:
    scripts(scontrol="echo 'MaxArraySize = 0'")
    with pytest.raises(ConfigError, match="job arrays are disabled in this cluster"):
        check_executor(RunsOn(executor="slurm"))


@pytest.mark.parametrize(
    ("device", "gpus", "nodes", "asked"),
    [
        ("auto", None, "main* (null)", False),
        ("auto", None, "main* gpu:a100:4(S:0-1)", True),
        ("auto", None, "main* (null)\\nother gpu:4", False),  # Not the default partition's.
        ("auto", 2, "main* (null)", True),
        ("auto", 0, "main* gpu:4", False),
        ("cuda", None, "main* (null)", True),
        ("cpu", 1, "main* gpu:4", False),
    ],
)
def test_gpus_are_asked_for_where_the_cluster_has_some(
    scripts: Tools, device: Any, gpus: int | None, nodes: str, asked: bool
) -> None:
    calls = scripts(sinfo=f'case "$*" in *%G*) printf "{nodes}\\n";; *) echo main;; esac')
    check_executor(RunsOn(executor="slurm", device=device, executor_settings={"gpus": gpus}))
    (said,) = [line for line in calls.read_text().splitlines() if line.startswith("sbatch --test-only")]
    assert (f"--gres=gpu:{gpus or 1}" in said) is asked


def test_memory_is_also_a_number_of_megabytes() -> None:
    assert SlurmSettings.model_validate({"memory": 16000}).memory == "16000"


@pytest.mark.parametrize("time", [3600, 90.5])
def test_a_time_that_yaml_has_read_as_a_number_is_refused_with_the_right_spelling(scripts: Tools, time: Any) -> None:
    scripts()
    with pytest.raises(ConfigError, match=r'time: .*write it in quotes, as "2:00:00"'):
        check_executor(RunsOn(executor="slurm", executor_settings={"time": time}))


@pytest.mark.parametrize(
    ("units", "tasks", "units_per_task", "most", "sizes"),
    [
        (10, 4, None, 1000, [3, 3, 3, 1]),  # All tasks have work.
        (2, 16, None, 1000, [1, 1]),
        (240, 4, None, 1000, [30] * 8),
        (4000, 4, None, 1000, [250] * 16),  # Starting Python takes a small part of the time, however short a unit is.
        (100, 4, 10, 1000, [10] * 10),  # Tasks wait for others to end.
        (100, 4, 10, 5, [20] * 5),  # The array may not be longer.
        (4000, 16, None, 10, [400] * 10),
    ],
)
def test_units_are_shared_out_among_tasks(
    units: int, tasks: int, units_per_task: int | None, most: int, sizes: list[int]
) -> None:
    lines = list(range(0, 2 * units, 2))
    shared = list(shares(lines, SlurmSettings(tasks=tasks, units_per_task=units_per_task), most))
    assert [len(share) for share in shared] == sizes
    assert [line for share in shared for line in share] == lines


def test_arrays_of_a_stage_have_one_name_whatever_its_fingerprint(tmp_path: Path) -> None:
    one, other = job_in(tmp_path, "0" * 12), job_in(tmp_path, "1" * 12)
    assert array_name(one) == array_name(other)
    assert array_name(job_in(tmp_path / "another run")) != array_name(one)
    continued = Job(**{**vars(one), "out": one.out.replace(".partial", "-0123abcd.partial")})
    assert array_name(continued) == array_name(one)


def test_a_stage_first_cancels_what_an_earlier_one_left_under_another_fingerprint(
    scripts: Tools, tmp_path: Path
) -> None:
    calls = scripts(sbatch="echo 'sbatch: error: no' >&2; exit 1")
    earlier, now = job_in(tmp_path, "0" * 12), job_in(tmp_path, "1" * 12)
    with pytest.raises(StageError, match="sbatch: no"):
        run_one(now, SlurmSettings())
    assert calls.read_text().splitlines()[0] == f"scancel --name={array_name(earlier)}"


@pytest.mark.parametrize("said", ["Socket timed out on send/recv operation", "Unable to contact slurm controller"])
def test_while_slurm_is_away_the_stage_waits_and_shows_it(scripts: Tools, tmp_path: Path, said: str) -> None:
    away = f"[ -e {tmp_path}/$0.away ] || {{ mkdir -p {tmp_path}/$0.away; echo '{said}' >&2; exit 1; }}"
    calls = scripts(sbatch=f"{away}\necho 'sbatch: error: no' >&2; exit 1", scontrol=f"{away}\necho 'MaxArraySize = 9'")
    shown: list[str] = []
    with pytest.raises(StageError, match=r"sbatch: no.*executor_settings"):
        run_one(job_in(tmp_path), SlurmSettings(), lambda good, rejected, waiting="": shown.append(waiting))
    assert shown == [f"Slurm does not answer: {said}"] * 2
    assert sum(line.startswith("sbatch") for line in calls.read_text().splitlines()) == 2


def test_a_job_that_was_submitted_although_the_answer_was_lost_is_not_submitted_again(
    scripts: Tools, tmp_path: Path
) -> None:
    submitted = tmp_path / "submitted"
    scripts(
        sbatch=f"echo 12 > {submitted}; echo 'Socket timed out' >&2; exit 1",
        squeue=f"echo 3; cat {submitted} 2> /dev/null",
    )
    assert jobs.submit("a-name", [], "#!/bin/sh\n", lambda text: None) == "12"


def test_slurm_that_is_away_for_too_long_ends_the_stage(
    scripts: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "PATIENCE_S", 0.0)
    scripts(scontrol="echo 'Connection timed out' >&2; exit 1")
    with pytest.raises(StageError, match=r"Slurm does not answer: Connection timed out\. Run this again when it does"):
        run_one(job_in(tmp_path), SlurmSettings())


def test_a_cancellation_goes_on_if_the_stage_cannot_wait_for_it(
    scripts: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "CANCEL_S", 0.1)
    os.mkfifo(tmp_path / "go")
    calls = scripts(scancel=f"cat {tmp_path}/go > {tmp_path}/cancelled")
    with pytest.raises(tools.NoAnswer, match="is still trying"):
        jobs.cancel("12")
    (tmp_path / "go").write_text("")  # Nobody would read it if the process had been ended.
    assert calls.read_text() == "scancel 12\n"


def test_a_second_sigterm_does_not_interrupt_the_cancellation(scripts: Tools, tmp_path: Path) -> None:
    submitted = tmp_path / "submitted"
    calls = scripts(
        sbatch=f"touch {submitted}; kill -TERM $PPID; sleep 1",
        scancel=f"[ ! -e {submitted} ] || kill -TERM $PPID",
    )
    job = job_in(tmp_path)
    with pytest.raises(StageError, match="SIGTERM ended") as raised:
        run_one(job, SlurmSettings())
    assert not isinstance(raised.value.__context__, StageError)
    assert calls.read_text().splitlines()[-1] == f"scancel --name={array_name(job)}"


def failed(job: Job, text: str, number: int) -> None:
    note_error(job, ValueError(text), f"{job.logs}/slurm-{number}_0.log")


def test_the_error_of_a_stage_is_that_of_its_last_array(scripts: Tools, tmp_path: Path) -> None:
    job = job_in(tmp_path)
    scripts(scontrol="echo ArrayTaskId=3 JobState=OUT_OF_MEMORY Reason=OutOfMemory ExitCode=0:125 NodeList=n1")
    failed(job, "healed since", 4)
    assert len(list((Path(job.out) / UNITS / ERRORS).glob("*.json"))) == 1
    said = str(gave_up(job, Array("a-name", "5"), {"000000": 0}, 3))
    assert "healed since" not in said
    assert "OUT_OF_MEMORY (reason OutOfMemory, exit code and signal 0:125) on n1" in said
    failed(job, "the newest", 5)
    said = str(gave_up(job, Array("a-name", "5"), {"000000": 0}, 3))
    assert "ValueError: the newest" in said
    assert "OUT_OF_MEMORY" in said
    scripts(scontrol="echo ArrayTaskId=3 JobState=FAILED Reason=NonZeroExitCode ExitCode=1:0 NodeList=n1")
    assert "FAILED" not in str(gave_up(job, Array("a-name", "5"), {"000000": 0}, 3))


def test_output_of_tasks_is_kept_only_if_it_says_more_than_what_is_stored(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    texts = {
        "5_0": "000001: 16 rows, 0 rejects\n000002: 15 rows, 1 rejects\n",
        "5_1": "",
        "5_2": "000003: 16 rows, 0 rejects\nslurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-01-02T03:04:05 ***\n",
        "5_3": "slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-01-02T03:04:05 DUE TO TIME LIMIT ***\n",
        "5_4": "000004: 16 rows, 0 rejects\na warning\n",
        "6_0": "000004: 16 rows, 0 rejects\n",  # Of another array.
    }
    for name, text in texts.items():
        (Path(job.logs) / f"slurm-{name}.log").write_text(text)
    remove_logs(Array("a-name", "5"), job)
    left = sorted(path.name for path in Path(job.logs).iterdir())
    assert left == ["slurm-5_3.log", "slurm-5_4.log", "slurm-6_0.log"]
