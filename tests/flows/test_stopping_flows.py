"""Prefect's flows obey the stopping rule, after a death as well, and say that the run has stopped."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.flows.prefect_server import ROOT, PrefectServer
from tests.runs import MakeRun
from xdc_core.documents.stop import read_decision
from xdc_core.graph.rounds import as_stopped
from xdc_core.graph.run_stage import all_fresh
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.run import Run
from xdc_core.stages.stop import stop_node

pytestmark = pytest.mark.slow

EASY = {"when": "agreement", "agreement": 1e-6, "rounds": 1}
NEVER_REACHED = {"when": "agreement", "agreement": 1.0, "rounds": 9}


def xdc(server: PrefectServer, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    environment = server.environment | more
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def flow_runs(server: PrefectServer, flow: str, run: Run) -> list[dict[str, Any]]:
    """The flow runs of a flow for this run, the first first."""
    found = server.ask("/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_ASC"})
    return [each for each in found if each["parameters"]["run"] == str(run.root)]


def test_a_run_ends_with_the_round_of_the_rule_and_every_way_to_go_on_says_so(
    server: PrefectServer, copy_run: MakeRun
) -> None:
    run = copy_run(rounds=3, stop=EASY)
    killed = xdc(server, "run", run.root, XDC_FAULT="kill:1:before rename stop.json")
    assert killed.returncode == 1, killed.stderr
    assert f"signal {int(signal.SIGKILL)}" in killed.stderr
    assert as_stopped(run) is run
    done = xdc(server, "run", run.root)
    assert done.returncode == 0, done.stderr
    line = f"{run.root} stopped in round 1 by its rule (stop)."
    assert line in done.stdout
    ended = as_stopped(run)
    assert ended.config.rounds == 1
    assert all_fresh(ended, all_nodes(ended.config))
    assert not (run.round_directory(1) / "train").exists()
    assert not run.round_directory(2).exists()
    *_, whole = flow_runs(server, "xdc", run)
    assert whole["state"]["message"].startswith(f"2 rounds were run, 0 were finished already. {line}")
    *_, last = flow_runs(server, "xdc-round", run)
    assert last["name"] == f"{run.root}, round 1"
    assert line in last["state"]["message"]

    again = xdc(server, "round", run.root)
    assert again.returncode == 0, again.stderr
    assert "Everything is fresh" in again.stderr
    assert line in again.stdout
    beyond = xdc(server, "round", run.root, "--round", 2)
    assert (beyond.returncode, line in beyond.stderr) == (2, True)
    # As a deployment does it: without a number, in the flow's process.
    code = f"from flows.orchestration.xdc_round import xdc_round; xdc_round({str(run.root)!r})"
    called = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=server.environment, capture_output=True, text=True
    )
    assert called.returncode == 0, called.stderr
    *_, last = flow_runs(server, "xdc-round", run)
    assert last["name"] == f"{run.root}, round 1"
    assert line in last["state"]["message"]
    assert set(server.task_states(last["id"]).values()) == {"Cached"}


def test_a_run_whose_rule_does_not_hold_goes_on_to_its_last_training_from_the_first_encoders(
    server: PrefectServer, copy_run: MakeRun
) -> None:
    run = copy_run(rounds=2, stop=NEVER_REACHED, last_training="from_first")
    done = xdc(server, "run", run.root)
    assert done.returncode == 0, done.stderr
    assert "stopped" not in done.stdout
    assert all_fresh(run, all_nodes(run.config))
    assert [read_decision(run.directory(stop_node(number))).stop for number in range(3)] == [False] * 3
    assert [(run.round_directory(number) / "train").exists() for number in range(4)] == [True, True, True, False]
    shown = xdc(server, "status", run.root)
    assert "Round 2 trains from the first encoders (last_training); round 3 has the final encoders." in shown.stdout


def test_a_failed_decision_reaches_no_training(server: PrefectServer, copy_run: MakeRun, tmp_path: Path) -> None:
    run = copy_run(rounds=2, stop=EASY, train={"lr": 0.5})
    failed = xdc(server, "run", run.root, XDC_FAULT="kill:1:before commit")
    assert failed.returncode == 1
    assert not list((run.round_directory(0) / "train").glob(".*.partial"))
    assert flow_runs(server, "xdc", run)[-1]["state_name"] == "Failed"
