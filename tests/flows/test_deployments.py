"""A real server, a process worker, all deployments: rounds that are asked for and scheduled, reuse, and failures."""

import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.server.dead_runs import FLOWS
from tests.flows.prefect_server import ROOT, PrefectServer, prefect_server
from tests.processes import wait_for
from xdc_core.graph.stages import STAGES
from xdc_core.runs.run import Run, open_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the worker is started: a folder without the project's files, in which the runs are."""
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[PrefectServer]:
    """Server and worker, ended afterwards."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as server:
        server.start_worker(folder)
        yield server


@pytest.mark.slow
def test_a_round_runs_from_its_deployment_then_the_next_by_a_schedule_and_the_first_is_reused(
    prefect: PrefectServer, folder: Path, make_run: Callable[..., Run]
) -> None:
    run = make_run()
    deployed = prefect.call("deploy", "--all")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    names = {deployment["name"] for deployment in prefect.ask("/deployments/filter", {})}
    assert names == {"local"}
    flows = {flow["name"] for flow in prefect.ask("/flows/filter", {})}
    assert flows == {"xdc-round", "xdc", *STAGES} == set(FLOWS)

    relative = run.root.relative_to(folder)  # To the worker's folder; this command and `deploy` are called in another.
    command = ("deployment", "run", "xdc-round/local", "-p", f"run={relative}", "-p", "round=0", "--watch")
    done = prefect.call(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tasks_of_the_newest(prefect) == ["Completed"] * 12
    assert rounds_published(prefect, run) == [0]

    scheduled = by_a_schedule(prefect, relative)
    assert scheduled["name"] == f"{relative}, round 1"
    assert rounds_published(prefect, run) == [0, 1]

    done = prefect.call(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tasks_of_the_newest(prefect) == ["Cached"] * 12
    assert rounds_published(prefect, run) == [0, 1], "what was shown before the last one is not shown again"


def newest_of(prefect: PrefectServer) -> dict[str, Any]:
    """The flow run that started last."""
    started = {"flow_runs": {"start_time": {"is_null_": False}}}
    return prefect.ask("/flow_runs/filter", {**started, "sort": "START_TIME_DESC", "limit": 1})[0]


def tasks_of_the_newest(prefect: PrefectServer) -> list[str]:
    """The states of the tasks of the flow run that started last; of the corpus, which tests share, as of the others."""
    states = prefect.task_states(newest_of(prefect)["id"])
    states["shard"] = states["report"]
    return list(states.values())


def rounds_published(prefect: PrefectServer, run: Run) -> list[int]:
    """The rounds of which there are a summary and two tables, as often as there are, the oldest first."""
    rounds = []
    for what in ("rounds", "cluster-sizes", "summary"):
        key = f"xdc-{run.root.name}-{what}"
        found = prefect.ask("/artifacts/filter", {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"})
        rounds.append([int(artifact["description"].split()[1]) for artifact in reversed(found)])
    assert rounds[0] == rounds[1] == rounds[2]
    return rounds[0]


def by_a_schedule(prefect: PrefectServer, run: Path) -> dict[str, Any]:
    """The flow run that an interval schedule makes of the next round, when it is done."""
    deploy = ("deploy", "flows.orchestration.xdc_round.xdc_round", "--name", "often", "--pool", "local")
    there = ("--job-variable", "working_dir=.", "--param", f"run={run}")
    deployed = prefect.call(*deploy, *there, "--interval", "30")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    wanted = {"deployments": {"name": {"any_": ["often"]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 1}
    wait_for("a scheduled flow run", lambda: prefect.ask("/flow_runs/filter", wanted), 120, every=1)
    (first,) = prefect.ask("/flow_runs/filter", wanted)
    assert first["auto_scheduled"]
    prefect.wait_for_state(first["id"], "Pending", "Running", "Completed")
    prefect.ask(f"/deployments/{first['deployment_id']}/pause_deployment", {})  # One is enough.
    prefect.wait_for_state(first["id"], "Completed")
    return prefect.flow_run(first["id"])


@pytest.mark.slow
def test_one_stage_alone_runs_from_its_deployment_and_a_failure_tells_how_to_do_it_again(
    prefect: PrefectServer, make_run: Callable[..., Run]
) -> None:
    made = make_run()
    run = open_run(made.root.rename(made.root.with_name("it's a run")))
    assert prefect.call("deploy", "--name", "*.init/local").returncode == 0
    here = ("--pool", "local", "--job-variable", "working_dir=.")
    mine = ("deploy", "flows.orchestration.stages.train", "--name", "mine", *here)
    assert prefect.call(*mine).returncode == 0
    command = ("deployment", "run", "--watch", "-p", f"run={run.root}", "-p", "modality=audio")
    done = prefect.call(*command, "init/local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (run.root / "init" / "audio" / "manifest.json").exists()
    failed = prefect.call(*command, "train/mine", "-p", "round=0")
    assert failed.returncode == 1
    newest = newest_of(prefect)
    assert newest["state_type"] == "FAILED"
    assert "train.audio of round 0 needs" in newest["state"]["message"]
    (artifact,) = failures(prefect)
    assert artifact["flow_run_id"] == newest["id"]
    assert "\n## train.audio of round 0\n" in artifact["data"]
    assert "train.audio of round 0 needs extract.audio of round 0, which is missing or stale" in artifact["data"]
    assert f"`{run.root}/logs/000-train.audio.log`" in artifact["data"]
    alone, deployed = artifact["data"].splitlines()[-3:-1]
    assert shlex.split(alone) == ["xdc", "stage", "train", str(run.root), "--modality", "audio", "--round", "0"]

    assert deployed.startswith("prefect deployment run train/mine ")
    subprocess.run(deployed, shell=True, cwd=ROOT, env=prefect.environment, check=True)
    wait_for("it to fail again", lambda: len(failures(prefect)) == 2, 120, every=0.5)
    assert [found["data"] for found in failures(prefect)] == [artifact["data"]] * 2


def failures(prefect: PrefectServer) -> list[dict[str, Any]]:
    """What is published of the failures of `it's a run`."""
    return prefect.ask("/artifacts/filter", {"artifacts": {"key": {"any_": ["xdc-it-s-a-run-failures"]}}})
