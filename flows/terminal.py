"""Progress on a terminal, or as plain lines if there is none."""

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

from shards.errors import Busy, XdcError
from shards.store.build import Record
from xdc_core.graph.stages import STAGES
from xdc_core.runs.node import Node

PLAIN_S = 10.0


class RateColumn(ProgressColumn):
    """The rate of a stage: clips, or whatever else it counts, per second."""

    def render(self, task: Task) -> Text:
        """Return the rate over the last half minute; nothing until it is known."""
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s" if task.speed >= 10 else f"{task.speed:.1f}/s")


def _bars() -> Progress:
    name = TextColumn("{task.description:<24}")
    columns = (name, BarColumn(30), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True)


class TerminalListener:
    """A listener that shows the nodes in progress and prints a line per ended node (not with `results=False`)."""

    def __init__(self, results: bool = True) -> None:
        self.results = results
        self.bars = _bars() if sys.stderr.isatty() else None
        self.tasks: dict[Node, TaskID] = {}
        self.printed_at: dict[Node, float] = {}
        self.reused = 0
        self.errors: list[XdcError] = []
        self.lock = threading.RLock()

    def line(self, text: str) -> None:
        """Print a line, above the bars if there are any."""
        with self.lock:
            if self.bars:
                self.bars.console.print(text, markup=False, highlight=False)
            else:
                print(text, file=sys.stderr, flush=True)

    def progress(self, node: Node, done: int, total: int, note: str) -> None:
        """Move the node's bar, or print a line every ten seconds."""
        with self.lock:
            if self.bars:
                if node not in self.tasks:
                    self.tasks[node] = self.bars.add_task(str(node), note=note)
                self.bars.update(self.tasks[node], completed=done, total=total, note=note)
            elif time.monotonic() - self.printed_at.setdefault(node, time.monotonic()) > PLAIN_S:
                self.printed_at[node] = time.monotonic()
                self.line(f"  {node}: {done} of {total} {note}")

    def waiting(self, node: Node, busy: Busy) -> None:
        """Show which process a node is waiting for."""
        self.progress(node, 0, 1, f"waiting: {busy}")

    def finished(self, node: Node, record: Record) -> None:
        """Print a line; reused nodes are only counted."""
        with self.lock:
            self._remove(node)
            if record.reused:
                self.reused += 1
            elif self.results:
                self.line(f"{node}: {done_in_words(record)}")

    def failed(self, node: Node, error: XdcError) -> None:
        """Print a line."""
        with self.lock:
            self._remove(node)
            self.errors.append(error)
            if self.results:
                self.line(f"{node}: FAILED. {error}")

    def _remove(self, node: Node) -> None:
        if self.bars and node in self.tasks:
            self.bars.remove_task(self.tasks.pop(node))


def done_in_words(record: Record) -> str:
    """Return what a stage made, in which time: `48 clips, 2 rejected, 3.2 s`."""
    rejects = f", {record.rejects} rejected" if record.rejects else ""
    return f"{STAGES[record.stage].amount(record.rows, record.summary)}{rejects}, {record.seconds:.1f} s"


@contextmanager
def show_progress(results: bool = True) -> Iterator[TerminalListener]:
    """Show the progress of this process's stages on the terminal while the block runs.

    `results`: also print a line per node that has ended.
    """
    from flows.runners.events import LISTENERS

    listener = TerminalListener(results)
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
    """Show progress in a single bar, or by a line every ten seconds."""
    if sys.stderr.isatty():
        with _bars() as bars:
            task = bars.add_task(what, note="")
            yield lambda done, total, note="": bars.update(task, completed=done, total=total, note=note)
        return
    printed_at = time.monotonic()

    def show(done: int, total: int, note: str = "") -> None:
        nonlocal printed_at
        if time.monotonic() - printed_at > PLAIN_S or done == total:
            printed_at = time.monotonic()
            print(f"  {what}: {done} of {total}", file=sys.stderr, flush=True)

    yield show
