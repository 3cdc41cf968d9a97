"""Progress on a terminal, or as plain lines where there is none."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from shards.errors import XdcError
from shards.store.build import Record
from xdc_core.runs.node import Node

PLAIN_S = 10.0


class RateColumn(ProgressColumn):
    """Clips a second, or whatever a stage counts."""

    def render(self, task: Task) -> Text:
        """Over the last half minute; nothing until it is known."""
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s" if task.speed >= 10 else f"{task.speed:.1f}/s")


def _bars() -> Progress:
    name = TextColumn("{task.description:<24}")
    columns = (name, BarColumn(30), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True)


class TerminalListener:
    """Shows the nodes that are at work, and prints a line for each that has ended."""

    def __init__(self) -> None:
        self.bars = _bars() if sys.stderr.isatty() else None
        self.tasks: dict[Node, TaskID] = {}
        self.told: dict[Node, float] = {}
        self.reused = 0
        self.errors: list[XdcError] = []
        self.lock = threading.Lock()

    def line(self, text: str) -> None:
        """Print a line, above the bars where there are any."""
        if self.bars:
            self.bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def progress(self, node: Node, done: int, total: int, note: str) -> None:
        """A bar that moves, or a line every ten seconds."""
        with self.lock:
            if self.bars:
                if node not in self.tasks:
                    self.tasks[node] = self.bars.add_task(str(node), note=note)
                self.bars.update(self.tasks[node], completed=done, total=total, note=note)
            elif time.monotonic() - self.told.setdefault(node, time.monotonic()) > PLAIN_S:
                self.told[node] = time.monotonic()
                self.line(f"  {node}: {done} of {total} {note}")

    def finished(self, node: Node, record: Record) -> None:
        """A line; what was reused is only counted."""
        with self.lock:
            self._remove(node)
            if record.reused:
                self.reused += 1
                return
            self.line(f"{node}: {record.rows} rows, {record.seconds:.1f} s{_rejects(record)}")

    def failed(self, node: Node, error: XdcError) -> None:
        """A line."""
        with self.lock:
            self._remove(node)
            self.errors.append(error)
            self.line(f"{node}: FAILED. {error}")

    def _remove(self, node: Node) -> None:
        if self.bars and node in self.tasks:
            self.bars.remove_task(self.tasks.pop(node))


def _rejects(record: Record) -> str:
    return f", {record.rejects} rejected" if record.rejects else ""


@contextmanager
def shown() -> Iterator[TerminalListener]:
    """Show what the stages do while the block runs."""
    from flows.runners.events import LISTENERS

    listener = TerminalListener()
    LISTENERS.append(listener)
    try:
        if listener.bars:
            with listener.bars:
                yield listener
        else:
            yield listener
    finally:
        LISTENERS.remove(listener)


@contextmanager
def counter(what: str) -> Iterator[Callable[..., None]]:
    """A single bar, or a line every ten seconds."""
    if sys.stderr.isatty():
        with _bars() as bars:
            task = bars.add_task(what, note="")
            yield lambda done, total, note="": bars.update(task, completed=done, total=total, note=note)
        return
    told = time.monotonic()

    def tell(done: int, total: int, note: str = "") -> None:
        nonlocal told
        if time.monotonic() - told > PLAIN_S or done == total:
            told = time.monotonic()
            print(f"  {what}: {done} of {total}", file=sys.stderr, flush=True)

    yield tell
