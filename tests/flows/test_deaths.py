"""With Prefect for real, something dies while two ranks train under torchrun: the rows of docs/prefect.md.

After each death nothing that the flow run had started is alive, and the ordinary way (a retry, or the same again) ends
with the bytes of a run that nobody interrupted.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.cli.machine.doctor import flow_runs
from shards.errors import ConfigError
from tests.flows.interrupted import TRAINING, assert_as_if_nothing_had_happened
from tests.flows.prefect_server import ENDS, ROOT, PrefectServer, prefect_server
from tests.processes import wait_for
from xdc_core.runs.run import Run

pytestmark = [pytest.mark.slow, pytest.mark.matrix]

FAMILY = 7  # At least: engine, two fork servers, the stage, torchrun's agent and its ranks.


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server that has the deployments; workers look for work every second."""
    with prefect_server(tmp_path_factory.mktemp("prefect"), PREFECT_WORKER_QUERY_SECONDS="1") as server:
        names = ("--name", "*.xdc/local", "--name", "*.xdc-round/local", "--name", "*.train/local")
        deployed = server.call("deploy", *names)
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        yield server


def wait_for_training(prefect: PrefectServer, run: Run, flow_run: str) -> None:
    """Until the ranks have written a checkpoint."""

    def under_way() -> bool:
        state = prefect.state(flow_run)
        assert state not in ENDS, prefect.flow_run(flow_run)["state"]["message"]
        return any((run.root / TRAINING.parent).glob(".audio.*.partial/checkpoint-*.pt"))

    wait_for("a checkpoint", under_way, 400, every=0.2)
    assert len(prefect.processes_of(flow_run)) >= FAMILY


def wait_until_gone(prefect: PrefectServer, flow_run: str) -> None:
    """Until none of its processes is left. Fork servers give a training 15 s for a checkpoint."""
    wait_for("its processes to end", lambda: not prefect.processes_of(flow_run), 60, every=0.2)


def in_one_line(ended: "subprocess.CompletedProcess[str]") -> str:
    """What a command said, wherever it broke its lines."""
    return " ".join((ended.stdout + ended.stderr).split())


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


@contextmanager
def held_up(processes: list[int]) -> Iterator[None]:
    """They are alive and do nothing."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    yield
    for process in processes:
        os.kill(process, signal.SIGCONT)


@contextmanager
def asking(prefect: PrefectServer) -> Iterator[None]:
    """In this process, Prefect means this server."""
    with temporary_settings({PREFECT_API_URL: prefect.url}):
        yield


def retry(prefect: PrefectServer, flow_run: str) -> None:
    """By Prefect's own command."""
    done = prefect.call("flow-run", "retry", flow_run)
    assert done.returncode == 0, done.stdout + done.stderr
    prefect.wait_for_state(flow_run, "AwaitingRetry", "Scheduled", "Late", "Pending", "Running", "Completed")
    prefect.wait_for_state(flow_run, "Completed")


def test_a_killed_engine_is_seen_at_once_and_a_retry_goes_on(
    prefect: PrefectServer, half_done: Run, whole: Run
) -> None:
    worker = prefect.start_worker()
    flow_run = prefect.submit("xdc/local", run=str(half_done.root))
    wait_for_training(prefect, half_done, flow_run)
    kill(prefect.engine_of(flow_run))
    prefect.wait_for_state(flow_run, "Crashed", seconds=60)
    wait_until_gone(prefect, flow_run)
    retry(prefect, flow_run)
    assert_as_if_nothing_had_happened(half_done, whole)
    wait_until_gone(prefect, flow_run)
    prefect.stop(worker)


def test_a_flow_run_outlives_its_worker_and_completes(prefect: PrefectServer, half_done: Run, whole: Run) -> None:
    worker = prefect.start_worker()
    flow_run = prefect.submit("xdc/local", run=str(half_done.root))
    wait_for_training(prefect, half_done, flow_run)
    worker.kill()
    prefect.wait_for_state(flow_run, "Completed")
    assert_as_if_nothing_had_happened(half_done, whole)
    wait_until_gone(prefect, flow_run)


def test_what_a_machine_left_running_when_it_died_is_found_and_repaired_and_what_lives_is_left_alone(
    prefect: PrefectServer, half_done: Run, whole: Run
) -> None:
    worker = prefect.start_worker()
    flow_run = prefect.submit("xdc/local", run=str(half_done.root))
    wait_for_training(prefect, half_done, flow_run)
    engine = prefect.engine_of(flow_run)
    with held_up(prefect.ranks_of(flow_run)):
        healthy = prefect.xdc("doctor", "--repair")
        assert healthy.returncode == 0, healthy.stdout + healthy.stderr
        assert f"({flow_run}): Running, and process {engine} on" in in_one_line(healthy)
        assert "is gone" not in in_one_line(healthy)
        with asking(prefect), pytest.raises(ConfigError, match=f"process {engine} on .* is alive"):
            flow_runs(repair=True, dead=[flow_run[:8]])
        assert prefect.state(flow_run) == "Running"
    worker.kill()
    kill(engine)
    wait_until_gone(prefect, flow_run)
    refused = prefect.call("flow-run", "retry", flow_run)
    assert "cannot be retried" in in_one_line(refused)
    with asking(prefect):
        found = [row for row in flow_runs(repair=False, dead=[]) if str(half_done.root) in row["text"]]
    assert [row["state"] for row in found] == ["dead"] * 2, "the flow xdc, and that of its round"
    assert all("is gone. To mark it as Crashed: xdc doctor --repair" in row["text"] for row in found)
    assert prefect.state(flow_run) == "Running"
    repaired = prefect.xdc("doctor", "--repair")
    assert f"To continue: prefect flow-run retry {flow_run}" in in_one_line(repaired)
    assert prefect.state(flow_run) == "Crashed"
    worker = prefect.start_worker()
    retry(prefect, flow_run)
    assert_as_if_nothing_had_happened(half_done, whole)
    wait_until_gone(prefect, flow_run)
    prefect.stop(worker)


def test_a_round_goes_on_while_the_server_is_killed_and_started_again(
    prefect: PrefectServer, half_done: Run, whole: Run
) -> None:
    worker = prefect.start_worker()
    flow_run = prefect.submit("xdc/local", run=str(half_done.root))
    wait_for_training(prefect, half_done, flow_run)
    prefect.kill_server()
    wait_for("the training to end without a server", lambda: (half_done.root / TRAINING).exists(), 240, every=0.2)
    prefect.start_server()
    prefect.wait_for_state(flow_run, "Completed")
    assert_as_if_nothing_had_happened(half_done, whole)
    wait_until_gone(prefect, flow_run)
    prefect.stop(worker)


def test_after_a_cancel_a_stage_alone_and_then_the_rest_go_on(
    prefect: PrefectServer, half_done: Run, whole: Run
) -> None:
    worker = prefect.start_worker()
    flow_run = prefect.submit("xdc/local", run=str(half_done.root))
    wait_for_training(prefect, half_done, flow_run)
    cancelled = prefect.call("flow-run", "cancel", flow_run)
    assert cancelled.returncode == 0, cancelled.stdout + cancelled.stderr
    prefect.wait_for_state(flow_run, "Cancelled", seconds=60)
    wait_until_gone(prefect, flow_run)
    assert not (half_done.root / TRAINING).exists()
    stage = prefect.submit("train/local", run=str(half_done.root), modality="audio", round=0)
    prefect.wait_for_state(stage, "Completed")
    assert prefect.task_states(stage) == {"train.audio": "Completed"}
    rest = prefect.submit("xdc/local", run=str(half_done.root))
    prefect.wait_for_state(rest, "Completed")
    assert_as_if_nothing_had_happened(half_done, whole)
    wait_until_gone(prefect, stage)
    wait_until_gone(prefect, rest)
    prefect.stop(worker)


def test_the_server_notices_a_dead_machine_by_itself_while_of_two_runs_at_once_one_works_and_one_waits(
    prefect: PrefectServer, half_done: Run, whole: Run, tmp_path: Path
) -> None:
    automation = yaml.safe_load((ROOT / "prefect-automation.yaml").read_text())
    automation["trigger"]["within"] = 60  # The file's five minutes are too long for a test.
    (tmp_path / "automation.yaml").write_text(yaml.safe_dump(automation))
    created = prefect.call("automation", "create", "--from-file", str(tmp_path / "automation.yaml"))
    assert created.returncode == 0, created.stdout + created.stderr

    worker = prefect.start_worker()
    dead = prefect.submit("xdc-round/local", run=str(half_done.root), round=0)
    wait_for_training(prefect, half_done, dead)
    worker.kill()
    kill(prefect.engine_of(dead))
    wait_until_gone(prefect, dead)

    worker = prefect.start_worker()
    both = [prefect.submit("xdc/local", run=str(half_done.root)) for _ in range(2)]
    for flow_run in both:
        prefect.wait_for_state(flow_run, "Completed")
    assert_as_if_nothing_had_happened(half_done, whole)
    rounds = {flow_run: prefect.rounds_of(flow_run) for flow_run in both}
    states = [prefect.task_states(rounds[flow_run][0])["train.audio"] for flow_run in both if rounds[flow_run]]
    assert states.count("Completed") == 1
    assert states.count("Cached") == len(states) - 1
    for flow_run in both:
        wait_until_gone(prefect, flow_run)
    wait_for("the server to notice", lambda: prefect.state(dead) == "Crashed", 180, every=1)
    assert {prefect.state(flow_run) for flow_run in both} == {"Completed"}
    prefect.stop(worker)
