"""The connection to a Ray cluster that somebody else has started, and what can be wrong with it.

`python -m flows.executors.ray.cluster ADDRESS VERSION` checks a cluster in a process of its own: Ray waits more than a
minute for a cluster that does not answer, and a process that was connected once keeps Ray's threads.
"""

import json
import logging
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from shards.errors import ConfigError, StageError
from shards.version import DISTRIBUTION

ANSWER_S = 30.0  # Seconds for a cluster to answer at all.
NODES_S = 15.0  # Seconds for its nodes to say which version of xdc they have. Those that do not are not waited for.
PORT_S = 5.0  # Seconds for a connection to an open port.
JOINS = 5  # Attempts to join through ray://.


def address_of(given: str | None) -> str:
    """Return the address of the cluster: `given`, else that in the environment variable RAY_ADDRESS.

    Raises:
        ConfigError: Ray is not installed, or there is no address: without one Ray would start a cluster of its own.
    """
    if find_spec("ray") is None:
        raise ConfigError("runs_on.executor is ray, but Ray is not installed here: pip install 'xdc-pipeline[ray]'")
    address = given or os.environ.get("RAY_ADDRESS", "")
    if not address or address == "local":
        raise ConfigError(
            "runs_on.executor is ray, but no cluster is named, and xdc starts none. Set "
            "runs_on.executor_settings.address (or RAY_ADDRESS) to HOST:PORT, to ray://HOST:PORT, or to auto on a "
            "machine of the cluster."
        )
    return address


def connect(address: str) -> Any:
    """Connect this process to the cluster, unless it is connected. Return the module ray.

    Raises:
        ConfigError: there is no cluster at the address, or it has other versions of Ray or Python.
    """
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # Read by the import. A lost cluster is not replaced by a local one.
    import ray

    if ray.is_initialized():
        return ray
    _check_port(address)
    for attempt in range(1, JOINS + 1):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
            break
        except (ConnectionError, RuntimeError, ValueError, AssertionError, TimeoutError) as error:
            # With ray:// the cluster starts a process that serves this one. Ray forks it beside threads of gRPC, and
            # now and then it dies at once on a cluster that is well: another one may start.
            if attempt < JOINS and isinstance(error, ConnectionAbortedError):
                print(f"joining the Ray cluster at {address} again: its server ended at its start", file=sys.stderr)
                continue
            raise _no_cluster(address, " ".join(str(error).split())) from error
    return ray


@contextmanager
def lost_cluster_explained(name: str) -> Iterator[None]:
    """Raise StageError if the connection to the cluster is lost in the block. name: of the work."""
    try:
        yield
    except Exception as error:
        if not _is_lost(error):
            raise
        raise StageError(
            f"{name}: the Ray cluster does not answer any more. What is finished is kept: run this again when it does. "
            f"Ray says: {' '.join(str(error).split())}"
        ) from error


@contextmanager
def lost_cluster_ignored() -> Iterator[None]:
    """Leave the block if the connection to the cluster is lost: Ray itself ends what this process has started."""
    try:
        yield
    except Exception as error:
        if not _is_lost(error):
            raise


def _is_lost(error: Exception) -> bool:
    """Return whether an error is that of a lost connection. With ray:// it may be a bare Exception."""
    import ray

    return isinstance(error, ray.exceptions.RayError | ConnectionError) or (
        type(error) is Exception and not ray.is_initialized()
    )


def end_actors(ray: Any, actors: Iterable[Any]) -> None:
    """End actors at once."""
    for actor in actors:
        with lost_cluster_ignored():
            ray.kill(actor)


def check_cluster(address: str) -> None:
    """Check that a cluster answers at the address, and that its nodes with CPUs have this version of xdc.

    Raises:
        ConfigError: it does not, or a node has another version or none.
    """
    _check_port(address)
    command = [sys.executable, "-m", "flows.executors.ray.cluster", address, version(DISTRIBUTION)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S + NODES_S, check=False)
    except subprocess.TimeoutExpired:
        raise _no_cluster(address, f"it has not answered for {ANSWER_S + NODES_S:.0f} s") from None
    if done.returncode == 2:
        raise ConfigError(done.stdout.strip())
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise _no_cluster(address, f"the attempt ended with exit code {done.returncode}: {said}")


def _check_port(address: str) -> None:
    """Raise ConfigError at once if nothing listens at HOST:PORT: Ray itself would try for more than a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        if address != "auto":
            raise ConfigError(
                f"runs_on.executor_settings.address is {address!r}, but it must be HOST:PORT, ray://HOST:PORT, or auto."
            )
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PORT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, getattr(error, "strerror", None) or str(error)) from error


def _no_cluster(address: str, why: str) -> ConfigError:
    return ConfigError(
        f"runs_on.executor is ray, but this process cannot join a cluster at {address}: {why.rstrip('.')}. Correct "
        "runs_on.executor_settings.address, or start the cluster. With HOST:PORT xdc must run on a machine of the "
        "cluster."
    )


def _versions(address: str) -> dict[str, str]:
    """Return the version of xdc on each node that answers, by address; "" where it is not installed."""
    ray = connect(address)
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def own_version() -> str:  # Sent by value: the node need not have this module.
        try:
            return version(DISTRIBUTION)
        except PackageNotFoundError:
            return ""

    # A node without CPUs gets no unit, such as the head of many clusters: it need not have the package.
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    asked = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=here)(own_version)
        asked[task.remote()] = node["NodeManagerAddress"]
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=NODES_S)
    versions = {}
    for task in answered:
        try:
            versions[asked[task]] = ray.get(task)
        except ray.exceptions.RayError:  # The node has just been lost.
            continue
    return versions


def _main(address: str, wanted: str) -> int:
    try:
        versions = _versions(address)
    except ConfigError as error:
        print(error)
        return 2
    for node, found in versions.items():
        if found != wanted:
            has = f"has version {found} of xdc" if found else "has no xdc"
            print(
                f"the node {node} of the Ray cluster at {address} {has}, and {platform.node()} has {wanted}. Install "
                "the same version on all machines."
            )
            return 2
    print(json.dumps(versions))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], sys.argv[2]))
