"""A real server, a process worker, all deployments, and a round run twice from the command line."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prefect_server import PrefectServer, prefect_server

from flows.zombies import FLOWS


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """Server and worker, ended afterwards."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as server:
        server.start_worker()
        yield server


@pytest.mark.slow
def test_a_round_runs_from_its_deployment_and_is_reused_the_second_time(
    prefect: PrefectServer, make_run: Callable[..., Any]
) -> None:
    run = make_run()
    deployed = prefect.call("deploy", "--all")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    names = {deployment["name"] for deployment in prefect.ask("/deployments/filter", {})}
    assert names == {"local"}
    flows = {flow["name"] for flow in prefect.ask("/flows/filter", {})}
    stages = {"shard", "init", "extract", "cluster", "label", "train", "report", "data", "embed", "eval"}
    assert flows == {"xdc-round", "xdc", *stages} == set(FLOWS)

    command = ("deployment", "run", "xdc-round/local", "-p", f"run={run.root}", "-p", "round=0", "--watch")
    for expected in ("Completed", "Cached"):
        done = prefect.call(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        newest = prefect.ask("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
        states = prefect.task_states(newest["id"])
        # The corpus is shared with other tests and may have been there before.
        assert {states[name] for name in states if name != "shard"} == {expected}
        assert len(states) == 12

    artifacts = prefect.ask("/artifacts/latest/filter", {})
    name = run.root.name.lower()
    assert {f"xdc-{name}-rounds", f"xdc-{name}-summary", f"xdc-{name}-cluster-sizes"} <= {
        artifact["key"] for artifact in artifacts
    }


@pytest.mark.slow
def test_one_stage_alone_runs_from_its_deployment_and_a_failure_is_seen(
    prefect: PrefectServer, make_run: Callable[..., Any]
) -> None:
    run = make_run()
    assert prefect.call("deploy", "--name", "init/local", "--name", "train/local").returncode == 0
    command = ("deployment", "run", "--watch", "-p", f"run={run.root}", "-p", "modality=audio")
    done = prefect.call(*command, "init/local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (run.root / "init" / "audio" / "manifest.json").exists()
    failed = prefect.call(*command, "train/local", "-p", "round=0")
    assert failed.returncode == 1
    newest = prefect.ask("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
    assert newest["state_type"] == "FAILED"
    assert "train.audio of round 0 needs" in newest["state"]["message"]
