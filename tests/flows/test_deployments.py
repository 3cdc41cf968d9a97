"""A real server and the scripts of `deploy/`: rounds on demand and by schedule, reuse, failures, a stopped worker."""

import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.server.dead_runs import FLOWS
from tests.flows.prefect_server import ROOT, PrefectServer
from tests.processes import PATIENCE_S, wait_for
from tests.runs import MakeRun, encoders_of_round_0
from xdc_core.graph.stages import STAGES
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run

LONG = {"clips": 1280, "batch": 16, "checkpoint_every": 1000}  # 80 steps: the only checkpoint is that of a stop.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the worker is started: a folder without the project's files, in which the runs are."""
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[PrefectServer]:
    """Server and worker, set up and started by the scripts and ended afterwards."""
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    try:
        server.start_server()
        set_up(server, ROOT)
        start_worker(server, folder)
        yield server
    finally:
        server.end()


def set_up(prefect: PrefectServer, folder: Path) -> None:
    """Call `setup.sh` in a folder, as a user would."""
    done = subprocess.run(
        ["sh", os.path.relpath(ROOT / "deploy" / "setup.sh", folder)],
        cwd=folder,
        env=prefect.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def start_worker(prefect: PrefectServer, folder: Path, before: str = "") -> "subprocess.Popen[bytes]":
    """Have `worker.sh` start a worker in a folder, from a shell that does something before."""
    command = ["sh", "-c", f'{before} exec "$0"', ROOT / "deploy" / "worker.sh"]
    with (prefect.home / "worker.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=prefect.environment, stdout=log, stderr=subprocess.STDOUT)
    prefect.running.append(process)
    return process


@pytest.mark.slow
def test_setup_a_second_time_and_in_its_own_folder_changes_nothing(prefect: PrefectServer) -> None:
    def there() -> list[list[str]]:
        pages = ("/work_pools/filter", "/deployments/filter", "/automations/filter")
        return [sorted(f"{found['id']} {found['name']}" for found in prefect.ask(page, {})) for page in pages]

    before = there()
    assert [len(found) for found in before] == [1, len(FLOWS), 1]
    set_up(prefect, ROOT / "deploy")
    assert there() == before


@pytest.mark.slow
def test_a_round_runs_from_its_deployment_then_the_next_by_a_schedule_and_the_first_is_reused(
    prefect: PrefectServer, folder: Path, make_run: Callable[..., Run]
) -> None:
    run = make_run()
    deployments = prefect.ask("/deployments/filter", {})
    assert {deployment["name"] for deployment in deployments} == {"local"}
    assert all(deployment["description"] and "xdc" in deployment["tags"] for deployment in deployments)
    assert sum("stage" in deployment["tags"] for deployment in deployments) == len(STAGES)
    flows = {flow["name"] for flow in prefect.ask("/flows/filter", {})}
    assert flows == {"xdc-round", "xdc", *STAGES} == set(FLOWS)

    relative = run.root.relative_to(folder)  # To the worker's folder; this command and `deploy` are called in another.
    command = ("deployment", "run", "xdc-round/local", "-p", f"run={relative}", "-p", "round=0", "--watch")
    done = prefect.call(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tasks_of_the_newest(prefect) == ["Completed"] * 12
    assert rounds_published(prefect, run) == [0]
    logged = [log["message"] for log in prefect.ask("/logs/filter", {"limit": 200})]
    made = [text for text in logged if text.startswith("init.video: done, 1 encoder, 0 rejects, ")]
    assert [text.rsplit(", in ", 1)[1] for text in made] == [str(run.directory(Node("init", "video")).resolve())]

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
    """The rounds of which there are a summary, curves and two tables, as often as there are, the oldest first."""
    rounds = []
    for what in ("rounds", "cluster-sizes", "summary", "curves"):
        key = f"xdc-{run.root.name}-{what}"
        found = prefect.ask("/artifacts/filter", {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"})
        rounds.append([int(artifact["description"].split()[1]) for artifact in reversed(found)])
    assert rounds[0] == rounds[1] == rounds[2] == rounds[3]
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


@pytest.mark.slow
def test_a_worker_that_is_to_end_ends_its_training_with_a_checkpoint_and_the_same_again_goes_on(
    prefect: PrefectServer, folder: Path, make_run: MakeRun
) -> None:
    run, plain = make_run(train=LONG), make_run(train=LONG)
    worker = prefect.running[-1]
    interrupted = prefect.submit("xdc-round/local", run=str(run.root), round=0)
    training = run.root / "rounds" / "000" / "train"
    wait_for("a training", lambda: any(training.glob(".*.partial/metrics.jsonl")), 400, every=0.1)
    assert not list(training.glob(".*.partial/checkpoint-*.pt"))
    os.kill(worker.pid, signal.SIGTERM)  # It alone, as the init process of a container does.
    worker.wait(PATIENCE_S)
    assert list(training.glob(".*.partial/checkpoint-*.pt"))
    assert not prefect.processes_of(interrupted)
    assert prefect.state(interrupted) == "Crashed"

    worker = start_worker(prefect, folder, before="trap '' INT;")  # As from a script that starts it in the background.
    again = prefect.submit("xdc-round/local", run=str(run.root), round=0)
    prefect.wait_for_state(again, "Completed")
    assert encoders_of_round_0(run) == encoders_of_round_0(plain)
    os.kill(worker.pid, signal.SIGTERM)
    worker.wait(PATIENCE_S)
