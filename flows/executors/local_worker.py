"""A worker of the local executor, and the GPUs of this machine."""

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from shards.store.executor import Job
from shards.workers.worker import do_units, note_error


def work(channel: Connection, job: Job, log: str, environment: dict[str, str]) -> int:
    """Do the units that `channel` brings, until it is closed. Return the exit code.

    For each list of units the receipts are sent, and then None; or a WorkerError, and this worker ends. environment: to
    be set in this process. log: file for output and tracebacks.
    """
    os.environ.update(environment)
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    written = open(log, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 - open for the life of this process
    sys.stdout.flush()
    sys.stderr.flush()
    sys.stdout = sys.stderr = written
    for descriptor in (1, 2):
        os.dup2(written.fileno(), descriptor)
    while True:
        try:
            units = channel.recv()
        except EOFError:
            return 0
        try:
            for receipt in do_units(job, units):
                channel.send(receipt)
        except Exception as error:  # noqa: BLE001 - the boundary of the process: the stage raises what is sent
            channel.send(note_error(job, error, log))
            return 1
        channel.send(None)


def find_all_gpus(channel: Connection) -> int:
    """Send the numbers of the working GPUs, and why others do not work. This starts CUDA in this process."""
    from xdc_core.compute.device import find_gpus

    gpus = find_gpus(sys.maxsize)
    channel.send((gpus.working, gpus.refused))
    return 0


def gpus_listed() -> int:
    """Return at most how many GPUs CUDA would find here. Does not start it."""
    there = len([*Path("/dev").glob("nvidia[0-9]*")])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return there if visible is None else min(there, len([name for name in visible.split(",") if name.strip()]))


def visible_gpu(number: int) -> str:
    """Return the value of CUDA_VISIBLE_DEVICES with which a process sees only GPU `number` of this one's."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return str(number) if visible is None else visible.split(",")[number].strip()
