"""Who in this process wants to know how the stages get on: the terminal, while `xdc run` shows it."""

from typing import Protocol

from shards.errors import XdcError
from shards.store.build import Record
from xdc_core.runs.node import Node


class Listener(Protocol):
    """Told of every node."""

    def progress(self, node: Node, done: int, total: int, note: str) -> None:
        """A stage is at work."""

    def finished(self, node: Node, record: Record) -> None:
        """A stage is done, or was reused."""

    def failed(self, node: Node, error: XdcError) -> None:
        """A stage failed."""


LISTENERS: list[Listener] = []
