"""A real server, a process worker, all deployments, and a round run twice from the command line."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


class PrefectServer:
    """A server with a worker, and the commands that talk to it."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/api"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.port = port

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """A command that goes on by itself."""
        with log.open("wb") as file:
            return subprocess.Popen(
                [*PREFECT, *arguments], cwd=ROOT, env=self.environment, stdout=file, stderr=subprocess.STDOUT
            )

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command that ends."""
        command = [*PREFECT, *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """A POST to the server's API."""
        request = urllib.request.Request(
            f"{self.url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def wait_until_up(self) -> None:
        """Two minutes are a lot even on slow cores."""
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        raise TimeoutError(self.url)


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """Server and worker, ended afterwards."""
    home = tmp_path_factory.mktemp("prefect")
    server = PrefectServer(home)
    running = [server.start("server", "start", "--port", str(server.port), log=home / "server.log")]
    try:
        server.wait_until_up()
        created = server.call("work-pool", "create", "local", "--type", "process")
        assert created.returncode == 0, created.stdout + created.stderr
        running.append(server.start("worker", "start", "--pool", "local", log=home / "worker.log"))
        yield server
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def task_states(server: PrefectServer, flow_run: str) -> dict[str, str]:
    """Task name -> state name of one flow run."""
    wanted = {"flow_runs": {"id": {"any_": [flow_run]}}}
    return {task["name"]: task["state_name"] for task in server.ask("/task_runs/filter", wanted)}


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
    assert flows == {"xdc-round", "xdc", *stages}

    command = ("deployment", "run", "xdc-round/local", "-p", f"run={run.root}", "-p", "round=0", "--watch")
    for expected in ("Completed", "Cached"):
        done = prefect.call(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        newest = prefect.ask("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
        states = task_states(prefect, newest["id"])
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
