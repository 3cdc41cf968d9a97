"""A real Prefect server with workers, the commands that talk to it, and the processes of its flow runs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.places import ROOT
from tests.processes import alive, wait_for

PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]
ENDS = {"Completed", "Failed", "Crashed", "Cancelled"}


class PrefectServer:
    """A server that can be killed and started again, its workers, and what one asks it."""

    def __init__(self, home: Path, **settings: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.home = home
        self.url = f"http://127.0.0.1:{self.port}/api"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.environment = kept | {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **settings,
        }
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, log: str, folder: Path = ROOT) -> "subprocess.Popen[bytes]":
        """A prefect command that goes on by itself, in a folder."""
        with (self.home / log).open("ab") as file:
            process = subprocess.Popen(
                [*PREFECT, *arguments], cwd=folder, env=self.environment, stdout=file, stderr=subprocess.STDOUT
            )
        self.running.append(process)
        return process

    def start_server(self) -> "subprocess.Popen[bytes]":
        """Returns when it answers: after five seconds, or minutes on cores that others are using too."""
        process = self.start("server", "start", "--port", str(self.port), log="server.log")
        wait_for("the server", self.answers, 400, every=0.2)
        return process

    def start_worker(self, folder: Path = ROOT) -> "subprocess.Popen[bytes]":
        """For the work pool `local`."""
        return self.start("worker", "start", "--pool", "local", log="worker.log", folder=folder)

    def kill_server(self) -> None:
        """With SIGKILL: whoever listens at the port."""
        for process in processes_with(f"PREFECT_HOME={self.home}"):
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            if b"uvicorn" in words or b"server" in words:
                os.kill(process, signal.SIGKILL)
        wait_for("the server to end", lambda: not self.answers(), 30, every=0.2)

    def stop(self, process: "subprocess.Popen[bytes]") -> None:
        """Kindly, then not."""
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def end(self) -> None:
        """What was started, the newest first."""
        for process in reversed(self.running):
            self.stop(process)

    def command(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Any command that ends."""
        return subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)

    def call(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A prefect command that ends."""
        return self.command(*PREFECT, *arguments)

    def xdc(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """The xdc command."""
        return self.command(sys.executable, "-m", "flows.cli", *arguments)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The server's API: a POST, or without a body a GET. Asked again while it is too busy (503)."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        wait_s = 1
        while True:
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                if error.code != 503 or wait_s > 8:
                    raise
            time.sleep(wait_s)
            wait_s *= 2

    def answers(self) -> bool:
        """Whether it is healthy."""
        try:
            urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    def submit(self, deployment: str, **parameters: Any) -> str:
        """Have a worker do a flow run; returns its id at once."""
        found = self.ask(f"/deployments/name/{deployment}")
        return self.ask(f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})["id"]

    def flow_run(self, flow_run: str) -> dict[str, Any]:
        """All that the server knows of it."""
        return self.ask(f"/flow_runs/{flow_run}")

    def state(self, flow_run: str) -> str:
        """The name of its state."""
        return self.flow_run(flow_run)["state_name"]

    def wait_for_state(self, flow_run: str, *states: str, seconds: float = 400) -> None:
        """Until it has one of these; fails at another end."""
        deadline = time.monotonic() + seconds
        while (state := self.state(flow_run)) not in states:
            assert state not in ENDS, f"{state}: {self.flow_run(flow_run)['state']['message']}"
            assert time.monotonic() < deadline, f"still {state}, not {states}, after {seconds} s"
            time.sleep(0.5)

    def task_states(self, flow_run: str) -> dict[str, str]:
        """Task name -> state name."""
        wanted = {"flow_runs": {"id": {"any_": [flow_run]}}}
        return {task["name"]: task["state_name"] for task in self.ask("/task_runs/filter", wanted)}

    def rounds_of(self, flow_run: str) -> list[str]:
        """The flow runs that a flow run of `xdc` has started, in their order."""
        wanted = {"flow_runs": {"parent_flow_run_id": {"any_": [flow_run]}}, "sort": "START_TIME_ASC"}
        return [found["id"] for found in self.ask("/flow_runs/filter", wanted)]

    def processes_of(self, flow_run: str) -> list[int]:
        """The engine, and whatever it has started, whoever its parent is by now."""
        return processes_with(f"PREFECT__FLOW_RUN_ID={flow_run}")

    def ranks_of(self, flow_run: str) -> list[int]:
        """The processes that torchrun has started for it."""
        words = {process: Path(f"/proc/{process}/cmdline").read_bytes() for process in self.processes_of(flow_run)}
        return [process for process, said in words.items() if b"-m\0xdc_core.training\0" in said and b"-u\0" in said]

    def engine_of(self, flow_run: str) -> int:
        """The process that does it."""
        return self.flow_run(flow_run)["labels"]["xdc.process.pid"]


def processes_with(variable: str) -> list[int]:
    """Living processes that were started with this in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{variable}\0".encode() in (process / "environ").read_bytes() and alive(int(process.name)):
                found.append(int(process.name))
        except OSError:
            continue
    return found


@contextmanager
def prefect_server(home: Path, **settings: str) -> Iterator[PrefectServer]:
    """A server with the work pool `local`; all that was started with it is ended afterwards."""
    server = PrefectServer(home, **settings)
    try:
        server.start_server()
        created = server.call("work-pool", "create", "local", "--type", "process")
        assert created.returncode == 0, created.stdout + created.stderr
        yield server
    finally:
        server.end()
