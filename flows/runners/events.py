"""Listeners: who in this process is informed of how the stages get on, such as the terminal of `xdc run`."""

from typing import Protocol

from shards.errors import Busy, XdcError
from shards.store.build import Record
from xdc_core.runs.node import Node


class Listener(Protocol):
    """Informed of every node, from the thread in which the node gets done."""

    def progress(self, node: Node, done: int, total: int, note: str) -> None:
        """Take note that a stage has done so much of its work."""

    def waiting(self, node: Node, busy: Busy) -> None:
        """Take note that another process builds the node; repeated as long as it does."""

    def finished(self, node: Node, record: Record) -> None:
        """Take note that a node is done, or was reused."""

    def failed(self, node: Node, error: XdcError) -> None:
        """Take note that a node failed."""


LISTENERS: list[Listener] = []
