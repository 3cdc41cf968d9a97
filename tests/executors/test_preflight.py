"""What is checked of an executor before work starts: each problem is one line, and nothing has been done."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flows.executors.preflight as preflight
from flows.executors.kind import ExecutorKind
from flows.executors.local import LocalSettings
from flows.executors.registry import EXECUTORS, check_executor, executor_of
from flows.orchestration.xdc import run_rounds
from shards.errors import ConfigError
from shards.store.executor import IN_PROCESS
from shards.store.lock_check import LockCheck
from tests.places import ROOT
from tests.runs import MakeRun
from xdc_core.config.schema import RunsOn
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

WRONG = {
    "lokal": ({"executor": "lokal"}, "the executor 'lokal' is unknown. Did you mean 'local'?"),
    "setting": ({"executor_settings": {"worker": 2}}, "runs_on.executor_settings of the executor local: worker: "),
    "value": ({"executor_settings": {"workers": 0}}, "runs_on.executor_settings of the executor local: workers: "),
}
PROBE = {"evaluate": {"probe": {"protocol": "fc", "modality": "audio", "label": "label_speaker"}}}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_executor_is_one_line(name: str) -> None:
    values, text = WRONG[name]
    for function in (check_executor, executor_of):
        with pytest.raises(ConfigError) as raised:
            function(RunsOn.model_validate(values))
        assert str(raised.value).startswith(text)
        assert "\n" not in str(raised.value)


def call(run: Run, *command: str) -> subprocess.CompletedProcess[str]:
    """A command for a run, and what it printed."""
    words = [sys.executable, "-m", "flows.cli", *command, str(run.root)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", [["run"], ["round"], ["stage", "shard"]])
def test_commands_check_the_executor_before_work_starts(make_run: MakeRun, command: list[str]) -> None:
    run = make_run(executor="slurmm", corpus={"path": "corpus"}, **PROBE)
    refused(call(run, *command))
    assert {path.name for path in run.root.iterdir()} == {"xdc.yaml"}


def test_an_evaluation_checks_the_executor_before_work_starts(copy_run: MakeRun) -> None:
    run = copy_run(executor="slurmm", **PROBE)
    refused(call(run, "eval"))
    assert not run.directory(Node("eval", "probe", 1)).exists()


def refused(called: subprocess.CompletedProcess[str]) -> None:
    """The command has ended with one line about the executor."""
    assert called.returncode == 2
    assert called.stderr.startswith("xdc: the executor 'slurmm' is unknown.")
    assert len(called.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [["run"], ["stage", "train", "--modality", "audio", "--round", "0"], ["eval"]])
def test_commands_for_what_is_finished_need_no_executor(copy_run: MakeRun, command: list[str]) -> None:
    run = copy_run(executor="slurmm", **PROBE)
    run_stage(run, Node("eval", "probe", 1))
    called = call(run, *command)
    assert called.returncode == 0, called.stderr
    assert "slurmm" not in called.stderr


def test_a_flow_needs_the_executor_only_if_a_stage_is_not_fresh(copy_run: MakeRun) -> None:
    run = copy_run(executor="slurmm")
    assert run_rounds(run) == {}
    shutil.rmtree(run.directory(Node("report", None, 0)))
    with pytest.raises(ConfigError, match="the executor 'slurmm' is unknown"):
        run_rounds(run)


def test_a_shared_disk_without_locks_is_a_warning_per_folder_once(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = ExecutorKind("elsewhere", LocalSettings, lambda *_: None, lambda *_: IN_PROCESS)
    monkeypatch.setitem(EXECUTORS.built_in, "elsewhere", elsewhere)
    monkeypatch.setattr(preflight, "check_locks", lambda folder: LockCheck("lustre", True, False, "no locks"))
    run = make_run(executor="elsewhere")
    for _ in range(2):
        preflight.check_run(run)
    folders = [run.root, run.corpus]
    assert capsys.readouterr().err.splitlines() == [f"warning: {folder}: no locks" for folder in folders]
    preflight.check_run(make_run())
    assert capsys.readouterr().err == ""


def test_a_disk_on_which_a_lock_has_no_answer_is_an_error(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(folder: Path) -> LockCheck:
        raise subprocess.TimeoutExpired(["try"], 60)

    elsewhere = ExecutorKind("elsewhere", LocalSettings, lambda *_: None, lambda *_: IN_PROCESS)
    monkeypatch.setitem(EXECUTORS.built_in, "elsewhere", elsewhere)
    monkeypatch.setattr(preflight, "check_locks", hang)
    with pytest.raises(ConfigError, match="locking a file has no answer within 60 s"):
        preflight.check_run(make_run(executor="elsewhere"))


def test_the_executor_is_in_no_fingerprint(make_run: MakeRun) -> None:
    from xdc_core.graph.run_stage import reuse
    from xdc_core.graph.stages import settings_of
    from xdc_core.runs.node import SHARD, Node

    run = make_run(executor="elsewhere", executor_settings={"workers": 7})
    assert reuse(run, SHARD) is not None
    assert "elsewhere" not in json.dumps(settings_of(run.config, Node("extract", "video", 0)))


def test_doctor_says_of_a_run_whether_its_executor_can_be_used(make_run: MakeRun, tmp_path: Path) -> None:
    from flows.cli.machine.doctor import executors

    runs = [make_run().root, make_run(executor="slurmm").root]
    works, broken = executors([tmp_path, *runs])
    assert (works["state"], works["text"]) == ("works", f"local, of {runs[0]}")
    assert broken["state"] == "broken"
    assert broken["text"].startswith(f"{runs[1]}: the executor 'slurmm' is unknown. Did you mean 'slurm'?")
