"""The agent of one machine, which starts the ranks there: `python -m xdc_core.ranks.agent JOB-FILE`.

It is torchrun's elastic agent: it meets those of the other machines, and starts the ranks of all again if one has
failed. In addition it ends its ranks when the stage asks for it, and when the stage is gone.
"""

import fcntl
import os
import platform
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.errors import StageError, XdcError
from xdc_core.ranks.channel import Channel, Message, connect_channel
from xdc_core.ranks.job import RankJob, job_of, read_values

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

AGENT = "XDC_AGENT"  # The environment variable with the agent's process id, for the ranks.
JOIN = "XDC_JOIN"  # That with the process id of `xdc_core.ranks.join`, for the agents that it starts.
# Time in which an agent ends its ranks before it meets the others again: torch's agent kills them after 30 s.
STOP_S = 40.0
SIOCGIFADDR = 0x8915  # Linux: the address of a network interface.


class _NotSentError(StageError):
    """The error of an agent without which the training goes on or has ended: the stage does not get it."""


def log_of(job: RankJob) -> Path | None:
    """Return the file for the output of this machine's agent and ranks; None if they have no file of their own."""
    return None if job.logs is None else Path(job.logs) / f"{platform.node()}.log"


def run_agent(path: Path) -> int:
    """Start this machine's ranks, and return when they have ended: 0 if all have ended well, else 1.

    Raises:
        StageError: there is no job file, or its stage is gone.
    """
    values = read_values(path)
    channel = connect_channel(values["host"], values["port"], values["identity"])
    host, log = platform.node(), None
    try:
        job = job_of(values)
        log = log_of(job)
        # An agent that `join` starts again is no further machine.
        process = os.environ.get(JOIN) or str(os.getpid())
        channel.send(Message("machine", value=process, host=host, log=str(log or "")))
        if log is not None:
            _redirect(log)
        os.environ |= {AGENT: str(os.getpid()), "OMP_NUM_THREADS": "1"}
        if job.machines > 1:
            _prepare_network(job)
        return _run_elastic_agent(path, job, channel)
    except XdcError as error:
        if not isinstance(error, _NotSentError):
            channel.send(Message("error", type(error).__name__, str(error), host, str(log or "")))
            channel.stop()
        print(error, file=sys.stderr, flush=True)
        return 1


def _redirect(log: Path) -> None:
    """Append the output of this process and its ranks to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"output goes to {log}", flush=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _prepare_network(job: RankJob) -> None:
    # Otherwise later ranks 0 would be expected at the first one's store, although its agent may have died.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # Otherwise gloo takes the address of this machine's name, which on many systems leads to the machine itself only.
    if interface := interface_of(own_address(job)):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def own_address(job: RankJob) -> str:
    """Return the address of this machine from which it reaches the stage."""
    with socket.create_connection((job.host, job.port)) as connection:
        return str(connection.getsockname()[0])


def interface_of(address: str) -> str | None:
    """Return the name of the network interface with an IPv4 address; None if there is none (Linux)."""
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def _run_elastic_agent(path: Path, job: RankJob, channel: Channel) -> int:
    """Do what `torchrun` does (torch.distributed.launcher.api.launch_agent), with an agent that heeds the stage."""
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.rendezvous import RendezvousConnectionError, RendezvousParameters
    from torch.distributed.elastic.rendezvous.api import RendezvousClosedError, RendezvousTimeoutError
    from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

    # Not through torch's registry, which connects again: perhaps to the stage that runs by then.
    try:
        store = connect_channel(job.host, job.port, job.identity).store
    except StageError as error:
        raise _NotSentError(str(error)) from error
    rendezvous = create_handler(
        store,
        C10dRendezvousBackend(store, job.identity),
        RendezvousParameters(
            backend="c10d",
            endpoint=f"{job.host}:{job.port}",
            run_id=job.identity,
            min_nodes=job.machines,
            max_nodes=job.machines,
            local_addr=own_address(job),
            join_timeout=round(job.timeout + STOP_S),
        ),
    )
    spec = WorkerSpec(
        role=job.name,
        local_world_size=job.processes,
        entrypoint=sys.executable,
        args=("-u", "-m", "xdc_core.ranks.process", str(path)),
        rdzv_handler=rendezvous,
        max_restarts=job.restarts,
    )
    with tempfile.TemporaryDirectory(prefix="xdc-ranks-") as folder:
        agent = _agent_class(job, channel)(spec, DefaultLogsSpecs(log_dir=folder))
        try:
            result = agent.run()
        except SignalException:  # The others get the signal, too: the rendezvous is not closed for them.
            return 1
        except (RendezvousConnectionError, RendezvousClosedError):
            raise _NotSentError(f"{job.name} has ended, or its stage is gone: {platform.node()} ends, too.") from None
        except RendezvousTimeoutError as error:
            # Without ranks this machine may be one too many.
            kind = StageError if agent.get_worker_group().group_rank is not None else _NotSentError
            raise kind(
                f"{platform.node()} waits for the other {job.machines - 1} of {job.machines} machines for longer than "
                f"runs_on.ranks_timeout ({job.timeout:g} s). Run it again: it continues from its last checkpoint."
            ) from error
        rendezvous.shutdown()
        return int(result is not None and result.is_failed())  # None: this machine was one too many.


def _agent_class(job: RankJob, channel: Channel) -> "type[LocalElasticAgent]":
    """Return torchrun's agent, extended in the way that its documentation describes. (This imports torch.)"""
    from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.rendezvous import RendezvousConnectionError

    class Agent(LocalElasticAgent):
        """An agent that heeds the stage."""

        def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
            try:
                stopped = channel.stopped()
            except RuntimeError as error:
                raise RendezvousConnectionError("the stage is gone") from error
            if stopped:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # It would interrupt the wait for the ranks.
            result = super()._monitor_workers(worker_group)
            start = worker_group.spec.max_restarts - self._remaining_restarts
            for rank, text in _killed(result.failures):  # They could not say so themselves.
                value = {"rank": rank, "start": start, "killed": True}
                channel.send(Message("failure", value, text, platform.node(), str(log_of(job) or "")))
            if stopped:
                raise SignalException("the stage asked for it", signal.SIGTERM)
            return result

        def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
            try:
                channel.stopped()
            except RuntimeError:  # The directory is no longer locked: the ranks must not write a checkpoint.
                death_sig = signal.SIGKILL
            super()._shutdown(death_sig, timeout)

    return Agent


def _killed(failures: Mapping[int, Any]) -> Iterator[tuple[int, str]]:
    """Yield the number of each rank that a signal ended, and its name, from torch's ProcessFailures by rank.

    Ranks that the agent has ended because of others are left out.
    """
    first = min((failure.timestamp for failure in failures.values()), default=0)
    for rank, failure in failures.items():
        # Seconds. The agent sends SIGTERM, and SIGKILL half a minute later.
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM and failure.timestamp - first < 10:
            name = signal.Signals(-failure.exitcode).name
            yield rank, name + (" (it may have needed too much memory)" if name == "SIGKILL" else "")


def main(arguments: list[str]) -> int:
    """Return the exit code: 0 when the ranks have ended well, 1 after an error, 2 with wrong arguments."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        return run_agent(Path(arguments[0]).resolve())
    except XdcError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
