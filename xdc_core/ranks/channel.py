"""Messages between a stage and the agents and ranks of its training, wherever they run.

They go through a TCP store of torch in the stage's process, through which the agents find each other, too. It is gone
when the stage is: that is how agents on other machines notice.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from shards.errors import ConfigError, StageError

MESSAGES, STOP, IDENTITY = "xdc/messages", "xdc/stop", "xdc/identity"  # Keys in the store.
ANSWER_S = 30  # Time after which a connection counts as lost.


@dataclass(frozen=True)
class Message:
    """What an agent or a rank sent.

    kind: "machine" when an agent has started (value: what is the same if it is started again); "value" for a value that
    a rank sends to the stage's work; "error" for the XdcError that ended an agent or a rank (value: its class);
    "failure" for another end of a rank (value: its number, the number of the ranks' start, whether a signal killed it).
    text: of errors. log: the file with the sender's output.
    """

    kind: str
    value: Any = None
    text: str = ""
    host: str = ""
    log: str = ""


class Channel:
    """One end of the messages. Methods raise RuntimeError if the stage's process cannot be reached."""

    def __init__(self, store: Any) -> None:
        self.store = store  # A torch.distributed.TCPStore.

    @property
    def port(self) -> int:
        """Return the store's port."""
        return int(self.store.port)

    def send(self, message: Message) -> None:
        """Send a message to the stage."""
        self.store.queue_push(MESSAGES, json.dumps(message.__dict__))

    def received(self) -> Iterator[Message]:
        """Yield the messages that have come, in the order of their arrival; the stage calls this."""
        while self.store.queue_len(MESSAGES):
            yield Message(**json.loads(self.store.queue_pop(MESSAGES, block=False)))

    def stop(self) -> None:
        """Ask all agents to end their ranks, which write a checkpoint."""
        self.store.set(STOP, "1")

    def stopped(self) -> bool:
        """Return whether the agents are asked to end."""
        return bool(self.store.check([STOP]))


@contextmanager
def open_channel(host: str, port: int, identity: str) -> Iterator[Channel]:
    """Open the stage's end.

    host: name or address of this machine for the others. port: 0 for any free one. identity: of this attempt at the
    training; agents and ranks of another one are refused.

    Raises:
        ConfigError: the name does not lead to this machine, or the port is in use.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:  # The store would try for a minute.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        channel = Channel(_store(host, port, is_master=True, wait_for_workers=False))
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"this machine cannot wait for others at {host}{f':{port}' if port else ''} ({_first_line(error)}). Set "
            "runs_on.rendezvous to a name or address of this machine, if need be with a free port."
        ) from error
    try:
        channel.store.set(IDENTITY, identity)
        yield channel
    finally:
        del channel.store  # Closes the port.


def connect_channel(host: str, port: int, identity: str) -> Channel:
    """Return the end of an agent or a rank of the attempt `identity`.

    Raises:
        StageError: the stage's process does not answer, or another one has its port now.
    """
    try:
        channel = Channel(_store(host, port, is_master=False))
        found = channel.store.get(IDENTITY).decode()  # Waits until it is set.
    except RuntimeError as error:
        raise StageError(f"the stage does not answer at {host}:{port} ({_first_line(error)}).") from error
    if found != identity:  # The stage died and runs again, or this port has become another training's.
        raise StageError(f"another training uses {host}:{port} now: the stage that wrote the job file is gone.")
    return channel


def _store(host: str, port: int, **how: bool) -> Any:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(host, port, timeout=timedelta(seconds=ANSWER_S), **how)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
