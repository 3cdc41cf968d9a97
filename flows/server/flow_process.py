"""Which process does a flow run, and whether that process is alive. Recorded in the flow run's labels.

Prefect knows too little for that: of a flow run from a deployment a process id without a machine, of one that was
started by hand nothing.
"""

import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PROC = Path("/proc")
PREFIX = "xdc.process."


@dataclass(frozen=True)
class FlowProcess:
    """A process, described so that no other is taken for it: of another machine, or a later one with its number.

    `boot` is the machine's number of its last start, `namespace` the set of process numbers (a container has its
    own), `started` the clock ticks from boot to the process's start, `attempt` the flow run's count of starts.
    """

    machine: str
    boot: str
    namespace: str
    pid: int
    started: int
    attempt: int

    def labels(self) -> dict[str, Any]:
        """Return it as labels of a flow run."""
        return {f"{PREFIX}{name}": value for name, value in vars(self).items()}

    def state(self) -> Literal["alive", "gone", "elsewhere"]:
        """Return whether it is alive, or "elsewhere" where this machine cannot see it."""
        if self.machine != _machine():
            return "elsewhere"
        here = this_process(self.attempt)
        if self.boot != here.boot:
            return "gone"  # The machine was restarted.
        if self.namespace != here.namespace:
            return "elsewhere"
        return "alive" if _started(self.pid) == self.started else "gone"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine.split('/')[0]}"


def this_process(attempt: int) -> FlowProcess:
    """Return this process, which has started a flow run for the `attempt`-th time. Linux only.

    Raises:
        OSError: there is no /proc.
    """
    started = _started(os.getpid())
    if started is None:
        raise FileNotFoundError(f"{PROC}/{os.getpid()}/stat")
    boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    return FlowProcess(_machine(), boot, os.readlink(PROC / "self/ns/pid"), os.getpid(), started, attempt)


def process_of(labels: dict[str, Any]) -> FlowProcess | None:
    """Return the process that a flow run's labels name; None without such labels, or with those of another version."""
    fields = {name.removeprefix(PREFIX): value for name, value in labels.items() if name.startswith(PREFIX)}
    kinds = FlowProcess.__annotations__
    if fields.keys() != kinds.keys() or any(not isinstance(fields[name], kind) for name, kind in kinds.items()):
        return None
    return FlowProcess(**fields)


def _machine() -> str:
    """Return name, installation and network card, for copies of a disk and machines with the same name to differ."""
    try:
        installation = Path("/etc/machine-id").read_text().strip()
    except OSError:
        installation = ""
    card = uuid.getnode()
    invented = card >> 40 & 1  # Python sets this bit in the number that it makes up where it finds no card.
    return f"{socket.gethostname()}/{installation}/{'' if invented else f'{card:012x}'}"


def _started(pid: int) -> int | None:
    """Return the clock ticks from boot to a living process's start; None where it is gone."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
