"""A Ray cluster of two nodes, 127.0.0.1 and 127.0.0.2, in a network and process namespace of its own.

Ray's ports would otherwise be open on all addresses of the machine. All processes of the cluster end with this one,
however it ends: the first process of a process namespace takes the others with it, and it ends with its input.
"""

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.engines.install_ray import PYTHON, ray_installed
from tests.faults.crash import kill_tree
from tests.places import ROOT
from tests.processes import PATIENCE_S, children_of, command_of, state_of

HEAD, OTHER, THIRD = "127.0.0.1", "127.0.0.2", "127.0.0.3"
ADDRESS, CLIENT = f"{HEAD}:6379", f"ray://{HEAD}:10001"
NAMESPACES = ("--net", "--pid", "--mount")
# A token that an earlier `ray.init` left in the home directory is not asked for; nothing is reported to Ray's makers.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ADDRESS": "",
    "OMP_NUM_THREADS": "1",
    "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "2",  # Seconds that Ray's client tries to connect again.
}
OBJECT_STORE = 80_000_000  # Bytes: the smallest that Ray takes is 75 MB.


def why_not() -> str:
    """Return why there can be no cluster here; "" if there can be one."""
    if not ray_installed():
        return "Ray is not in .engines/ray: python -m tests.engines.install ray"
    words = ["unshare", *NAMESPACES, "--fork", "--mount-proc", "ip", "link", "set", "lo", "up"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return f"{error.filename} is not there"
    return "" if done.returncode == 0 else f"no namespaces: {done.stderr.strip()}"


@dataclass(frozen=True)
class RayCluster:
    """A running cluster. `holder` is the first process of its namespaces, by its number outside."""

    holder: int
    input: IO[str]
    output: IO[str]

    def command(self, *words: str | Path | int) -> list[str]:
        """Return a command that runs Python with these arguments on the first node. It starts a child for it."""
        enter = ["nsenter", "--target", str(self.holder), *NAMESPACES, f"--wd={ROOT}", "--"]
        return [*enter, str(PYTHON), *map(str, words)]

    def kill(self, node: str) -> None:
        """Kill the raylet of a node and its workers with SIGKILL, as when the machine is lost."""
        self._ask("kill", node)

    def start(self, node: str, cpus: int = 1, path: Path | None = None) -> None:
        """Start the raylet of a node that is not there. path: folder in which it finds modules before all others."""
        self._ask("start", node, str(cpus), str(path or ""))

    def restore(self) -> None:
        """Kill what `command` has started and still runs, and make the cluster one of two nodes again."""
        for process in self.started():
            os.kill(process, signal.SIGKILL)
        self.go_on()
        self._ask("restore")

    def workers(self) -> set[int]:
        """Return the processes of workers of the executor, on all nodes."""
        return {process for process in self.processes() if command_of(process)[0].startswith("ray::RayWorker")}

    def stopped(self) -> list[int]:
        """Return the processes that are stopped by SIGSTOP."""
        return [process for process in self.processes() if state_of(process) == "T"]

    def go_on(self) -> None:
        """Let the stopped processes go on."""
        for process in self.stopped():
            os.kill(process, signal.SIGCONT)

    def kill_clients(self) -> None:
        """Kill what serves processes with an address ray://."""
        for process in self.processes():
            if "ray.util.client.server" in command_of(process):
                os.kill(process, signal.SIGKILL)

    def kill_inside(self, process: subprocess.Popen[str]) -> None:
        """Kill with SIGKILL what `command` has started, and wait for the end of `process`, which started it."""
        (inside,) = children_of(process.pid)
        os.kill(inside, signal.SIGKILL)
        process.wait()

    def started(self) -> list[int]:
        """Return what `command` has started and still runs."""
        enter = ["nsenter", "--target", str(self.holder)]
        entered = [process for process in children_of(os.getpid()) if command_of(process)[:3] == enter]
        return [child for process in entered for child in children_of(process)]

    def processes(self) -> list[int]:
        """Return what the first process of the namespaces and its children have started, by numbers outside."""
        found, older = [], [self.holder]
        while older:
            younger = []
            for parent in older:
                with suppress(FileNotFoundError, ProcessLookupError):  # It has just ended.
                    younger += children_of(parent)
            found, older = found + younger, younger
        return found

    def _ask(self, what: str, *words: str) -> None:
        self.input.write(json.dumps([what, *words]) + "\n")
        self.input.flush()
        assert _answer(self.output) == f"done {what}\n"


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """Start both nodes, with one CPU each, and end them with the block."""
    folder = Path(tempfile.mkdtemp(prefix="xdc-ray-", dir="/tmp"))  # Sockets have names of at most 107 characters.
    holder = [str(PYTHON), "-m", "tests.engines.ray_cluster", str(folder)]
    unshare = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
    with (folder / "cluster.log").open("w") as log:
        process = subprocess.Popen(
            [*unshare, *holder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = _answer(process.stdout)
        assert said == "ready\n", said + (folder / "cluster.log").read_text()
        yield RayCluster(children_of(process.pid)[0], process.stdin, process.stdout)
    finally:
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()  # unshare, with which its child is killed, and so all in the namespaces.
        process.wait()
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def _answer(output: IO[str]) -> str:
    """Return the next line; "" if none has come in time, or the cluster has ended."""
    with selectors.DefaultSelector() as selector:  # select.select fails for descriptors above 1,023.
        selector.register(output, selectors.EVENT_READ)
        return output.readline() if selector.select(PATIENCE_S) else ""


def _start(folder: Path, node: str, cpus: str = "1", path: str = "") -> None:
    joins = ["--head", "--port", "6379", "--temp-dir", folder / "ray", "--include-dashboard", "false"]
    joins = joins if node == HEAD else ["--address", ADDRESS]
    common = ["--num-cpus", cpus, "--object-store-memory", OBJECT_STORE, "--disable-usage-stats"]
    words = [PYTHON.with_name("ray"), "start", "--node-ip-address", node, *joins, *common]
    environment = {**os.environ, "PYTHONPATH": f"{path}:{ROOT}" if path else str(ROOT)}
    subprocess.run(list(map(str, words)), stdout=sys.stderr, env=environment, check=True)


def _raylets(node: str) -> list[int]:
    """Return the raylet of a node, if it runs."""
    commands = {int(entry.name): command_of(int(entry.name)) for entry in Path("/proc").glob("[0-9]*")}
    wanted = f"--node_ip_address={node}"
    return [process for process, words in commands.items() if words[0].endswith("/raylet") and wanted in words]


def _hold(folder: Path) -> None:
    """Run the cluster, as the first process of the namespaces: it and all others end with the standard input."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for node in (HEAD, OTHER):
        _start(folder, node)
    print("ready", flush=True)
    for line in sys.stdin:
        what, *words = json.loads(line)
        if what == "kill":
            (raylet,) = _raylets(*words)
            kill_tree(raylet)
        elif what == "start":
            _start(folder, *words)
        else:
            for raylet in _raylets(THIRD):
                kill_tree(raylet)
            if not _raylets(OTHER):
                _start(folder, OTHER)
        print("done", what, flush=True)


if __name__ == "__main__":
    _hold(Path(sys.argv[1]))
