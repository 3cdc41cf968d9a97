"""Flow runs whose process is gone, on a real server: found, marked as Crashed, and nothing else is touched."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Pending, Running, State

from flows.cli.machine.doctor import flow_runs
from flows.server.flow_process import FlowProcess, this_process
from shards.errors import ConfigError
from tests.flows.prefect_server import PrefectServer, prefect_server

pytestmark = pytest.mark.slow

SLEEPER = """
import sys, time
from prefect import flow
from flows.server.dead_runs import record_process

@flow(name="xdc")
def sleeper():
    record_process()
    from prefect.runtime import flow_run
    print(flow_run.id, flush=True)
    time.sleep(600)

sleeper()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """Without a worker."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as running:
        yield running


@pytest.fixture
def client(server: PrefectServer) -> Iterator[SyncPrefectClient]:
    """In this process, Prefect means this server; what a test leaves unfinished is deleted."""
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as asking:
        yield asking
        for flow_run in asking.read_flow_runs():
            asking.delete_flow_run(flow_run.id)


def claim(client: SyncPrefectClient, flow: str, state: State, process: FlowProcess | None = None) -> FlowRun:
    """A flow run that only the server knows of, with `process` recorded as its own."""
    flow_id = client.create_flow_from_name(flow)
    body = {"flow_id": str(flow_id), "state": {"type": "SCHEDULED"}}
    made = client.request("POST", "/flow_runs/", json=body).json()
    client.set_flow_run_state(UUID(made["id"]), state, force=True)
    flow_run = client.read_flow_run(UUID(made["id"]))
    if process:
        client.update_flow_run_labels(flow_run.id, replace(process, attempt=flow_run.run_count).labels())
    return flow_run


def states() -> dict[str, str]:
    """Id -> what doctor says."""
    return {row["text"].split("(")[1].split(")")[0]: row["state"] for row in flow_runs(repair=False, dead=[])}


def test_of_two_flow_runs_the_one_whose_process_was_killed_is_repaired(
    server: PrefectServer, client: SyncPrefectClient
) -> None:
    environment = server.environment | {"PREFECT_LOGGING_LEVEL": "ERROR"}
    sleepers = [
        subprocess.Popen([sys.executable, "-c", SLEEPER], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        killed, living = (str(process.stdout.readline().strip()) for process in sleepers if process.stdout)
        assert states() == {killed: "works", living: "works"}
        sleepers[0].kill()
        sleepers[0].wait()
        assert states() == {killed: "dead", living: "works"}
        with pytest.raises(ConfigError, match=rf"process {sleepers[1].pid} on .* is alive"):
            flow_runs(repair=True, dead=[living])
        said = flow_runs(repair=True, dead=[])
        assert [row["state"] for row in said if killed in row["text"]] == ["repaired"]
        assert states() == {living: "works"}
        assert client.read_flow_run(UUID(killed)).state_type == StateType.CRASHED
        assert client.read_flow_run(UUID(living)).state_type == StateType.RUNNING
    finally:
        for process in sleepers:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def test_a_cancel_that_nobody_was_left_to_do_ends_as_cancelled(client: SyncPrefectClient) -> None:
    dead = claim(client, "xdc-round", Cancelling(), replace(this_process(0), boot="before"))
    flow_runs(repair=True, dead=[])
    assert client.read_flow_run(dead.id).state_type == StateType.CANCELLED


def test_of_another_machine_or_not_yet_recorded_is_left_alone_unless_a_person_knows(client: SyncPrefectClient) -> None:
    away = claim(client, "train", Running(), replace(this_process(0), machine="away//"))
    starting = claim(client, "xdc-round", Pending())
    flow_runs(repair=True, dead=[])
    assert states() == {str(away.id): "unseen", str(starting.id): "unseen"}
    flow_runs(repair=True, dead=[str(away.id)[:13], str(starting.id)])
    assert states() == {}
    assert client.read_flow_run(away.id).state_type == StateType.CRASHED
    with pytest.raises(ConfigError, match="0 unfinished flow runs have such an id"):
        flow_runs(repair=True, dead=[str(away.id)])


def test_a_retried_flow_run_that_still_carries_the_label_of_its_dead_attempt_is_left_alone(
    client: SyncPrefectClient,
) -> None:
    retried = claim(client, "xdc", Running(), replace(this_process(0), boot="before"))
    client.set_flow_run_state(retried.id, Pending(), force=True)
    assert states() == {str(retried.id): "unseen"}
    client.set_flow_run_state(retried.id, Running(), force=True)
    assert states() == {str(retried.id): "unseen"}


def test_flow_runs_of_other_projects_are_not_listed(client: SyncPrefectClient) -> None:
    other = claim(client, "billing", Running(), replace(this_process(0), boot="before"))
    assert flow_runs(repair=True, dead=[]) == []
    assert client.read_flow_run(other.id).state_type == StateType.RUNNING
