"""A Slurm cluster of two nodes on this machine, in namespaces of its own: nothing of it is visible outside.

The first process of its namespace reads from a pipe of the test's. However the test ends, the pipe is closed, that
process ends, and the kernel ends everything else in the namespace.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.engines.install_slurm import environment, plugins, program, slurm_installed
from tests.processes import alive, children_of, command_of, state_of, wait_for

HOST, ADDRESS, NODES = "xdc-slurm", "10.77.0.1", ("n1", "n2")
NAMESPACES = ("unshare", "--net", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child")
TOOLS = ("sbatch", "squeue", "scancel", "sinfo", "scontrol", "srun")
# Slurm's names are resolved only where an interface has an address that is not the loopback's: `lo` gets a second one.
FIRST_PROCESS = """
hostname {host} && ip link set lo up && ip addr add {address}/24 dev lo || exit 1
{slurmctld} -D -i > {folder}/slurmctld.log 2>&1 &
while read -r node; do
  {slurmd} -D -N $node -d {slurmstepd} >> {folder}/$node.log 2>&1 < /dev/null &
done
"""
CONFIGURATION = """
ClusterName=xdc
SlurmctldHost={host}({address})
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
PluginDir={plugins}
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_min_interval=100000
SlurmdTimeout=4
KillWait=3
ReturnToService=2
PartitionName=main Nodes={first},{second} Default=YES MaxTime=INFINITE State=UP
NodeName={first} NodeHostname={host} NodeAddr={address} Port=17001 CPUs=1 RealMemory=8000 State=UNKNOWN
NodeName={second} NodeHostname={host} NodeAddr={address} Port=17002 CPUs=1 RealMemory=8000 State=UNKNOWN
"""


def why_not() -> str | None:
    """Return why no cluster can be started here; None if it can."""
    if not slurm_installed():
        return "Slurm is not there: python -m tests.engines.install slurm"
    if lacking := [tool for tool in ("unshare", "nsenter", "ip") if shutil.which(tool) is None]:
        return f"there is no {lacking[0]}"
    tried = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True, check=False)
    return f"no namespaces: {tried.stderr.strip()}" if tried.returncode else None


@dataclass(frozen=True)
class SlurmCluster:
    """A running cluster. `first`: the first process of its namespace, as this namespace numbers it."""

    folder: Path
    first: int
    input: IO[bytes]

    @property
    def bin(self) -> Path:
        """Return the folder of Slurm's tools, which reach the cluster from outside and from its nodes."""
        return self.folder / "bin"

    def call(self, tool: str, *words: str) -> str:
        """Return what a tool prints."""
        command = [str(self.bin / tool), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def processes(self) -> list[int]:
        """Return all processes of the cluster, except the first one."""
        found, older = [], [self.first]
        while older:
            older = [child for parent in older for child in children_of(parent)]
            found += older
        return found

    def stopped(self) -> list[int]:
        """Return all processes of the cluster that a signal has stopped."""
        return [process for process in self.processes() if state_of(process) == "T"]

    def node_of(self, process: int) -> str | None:
        """Return the node on which a process of a job runs."""
        return next((node for node in NODES if _is_of(process, node)), None)

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon and all processes of the jobs on it at once, as if its power failed."""
        of_node = [process for process in self.processes() if _is_of(process, node)]
        steps = {_parent(process) for process in of_node}  # A step's daemon has not the variables of its job.
        victims = [*of_node, *(step for step in steps if command_of(step)[0].startswith("slurmstepd"))]
        for process in victims:
            os.kill(process, signal.SIGKILL)
        wait_for(f"the processes of {node} to end", lambda: not any(alive(process) for process in victims))

    def start_node(self, node: str) -> None:
        """Start the daemon of a node that was killed, and wait until jobs can run on both again."""
        self.input.write(f"{node}\n".encode())
        self.input.flush()
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Wait until both nodes are there and have nothing to do."""
        wait_for("both nodes to be idle", lambda: _idle(self) == len(NODES), every=0.2)


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Start a cluster whose files are in `folder`; everything of it has ended when the block is left."""
    for name in ("state", "bin", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    names = {"host": HOST, "address": ADDRESS, "folder": folder, "plugins": plugins()}
    names |= {"first": NODES[0], "second": NODES[1]}
    names |= {daemon: program(daemon) for daemon in ("slurmctld", "slurmd", "slurmstepd")}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**names), encoding="utf-8")
    variables = environment() | {"SLURM_CONF": str(folder / "slurm.conf")}
    outer = subprocess.Popen(
        [*NAMESPACES, "bash", "-c", FIRST_PROCESS.format(**names)], stdin=subprocess.PIPE, env=os.environ | variables
    )
    assert outer.stdin is not None
    try:
        wait_for("the first process of the namespace", lambda: children_of(outer.pid) or outer.poll())
        (first,) = children_of(outer.pid)
        for tool in TOOLS:
            _write_tool(folder / "bin" / tool, first, variables)
        cluster = SlurmCluster(folder, first, outer.stdin)
        for node in NODES:
            outer.stdin.write(f"{node}\n".encode())
        outer.stdin.flush()
        cluster.wait_until_idle()
        yield cluster
    finally:
        outer.stdin.close()
        outer.wait()


def _write_tool(path: Path, first: int, variables: dict[str, str]) -> None:
    exports = "".join(f"export {name}={value}\n" for name, value in variables.items())
    enter = f'[ "$(hostname)" = {HOST} ] || enter="nsenter --target {first} --net --uts --"\n'
    path.write_text(f'#!/bin/sh\n{exports}enter=\n{enter}exec $enter {program(path.name)} "$@"\n', encoding="utf-8")
    path.chmod(0o755)


def _idle(cluster: SlurmCluster) -> int:
    try:
        return cluster.call("sinfo", "-h", "-N", "-o", "%T").split().count("idle")
    except subprocess.CalledProcessError:  # The controller does not listen yet.
        return 0


def _is_of(process: int, node: str) -> bool:
    """Return whether a process is a node's daemon or belongs to a job on the node."""
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f" -N {node} " in " ".join(command_of(process)) or f"SLURMD_NODENAME={node}".encode() in variables


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[1])
