"""Listeners, which are informed of the progress of stages, such as the terminal of `xdc run`."""

from typing import Protocol

from shards.errors import Busy, XdcError
from shards.store.build import Record
from xdc_core.runs.node import Node


class Listener(Protocol):
    """A listener, called for every node in the thread in which the node is run."""

    def progress(self, node: Node, done: int, total: int, note: str) -> None:
        """Receive the progress of a stage: `done` of `total`, and a note."""

    def waiting(self, node: Node, busy: Busy) -> None:
        """Receive that another process is building the node; repeated while it does."""

    def finished(self, node: Node, record: Record) -> None:
        """Receive that a node is finished, or was reused."""

    def failed(self, node: Node, error: XdcError) -> None:
        """Receive that a node failed."""


LISTENERS: list[Listener] = []
