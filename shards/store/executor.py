"""Work in units of shards: a stage plans them, an executor has workers do them, the stage commits.

A worker stores each shard with a receipt (`shards.store.receipt.new_shard`). What has a receipt is not done again.
"""

import pkgutil
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from shards.errors import StageError
from shards.progress import Progress
from shards.store.receipt import Receipt, read_receipt, settle
from shards.store.units import begin_units
from shards.version import package_version


def check_version(name: str, wanted: str | None) -> None:
    """Raise StageError if this process has another version of xdc than the stage that wrote the job `name`."""
    own = package_version()
    if own != wanted:
        raise StageError(
            f"{platform.node()} has version {own} of xdc, and the stage {name} was started with {wanted}. Install the "
            "same version on all machines."
        )


@dataclass(frozen=True)
class Unit:
    """Some shards that one worker does in one go: at most about a minute's work, if a shard is not more."""

    number: int
    shards: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """All that a worker needs to do a stage's units, as JSON values. A worker lists and derives nothing.

    name: the node, for messages. work: "module:function", a `Work`. arguments: for the work. out: absolute path of the
    stage's partial directory. logs: absolute path of the folder for output and tracebacks of workers. library: which of
    two heavy libraries the work imports. gpu: whether a worker can use a GPU. more: whether another job for the same
    workers follows at once, for which they may be kept. version: of the package; a worker with another one refuses.
    """

    name: str
    work: str
    arguments: dict[str, Any]
    out: str
    logs: str
    library: Literal["torch", "faiss"]
    gpu: bool = False
    more: bool = False
    version: str = field(default_factory=package_version)


class Advance(Protocol):
    """A function that is called with good and rejected clips as they are processed.

    waiting: what an executor waits for, such as a queue of other people's jobs; "" when it no longer waits.
    """

    def __call__(self, good: int, rejected: int, waiting: str = "") -> None: ...


def uncounted(good: int, rejected: int, waiting: str = "") -> None:
    """Ignore what is processed: nobody watches."""


# Store each of some shards; yield its receipt. Several shards are given at once so that a worker reads ahead.
Work = Callable[[dict[str, Any], list[str], Advance], Iterator[Receipt]]


class Executor(Protocol):
    """Has workers do the units of a job."""

    def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
        """Return when every shard of every unit has a receipt. Call `received` for each, in any order.

        `advance`: may be called between receipts, for a finer progress, and to show what is waited for.

        Raises:
            StageError, ConfigError: what a worker raised, with its host and log file; StageError also if a unit was
                tried too often.
        """


@runtime_checkable
class MayBeInProcess(Protocol):
    """An executor that does some jobs in the stage's own process. What these compute needs no detour over the disk."""

    def in_process(self, gpu: bool) -> bool:
        """Return whether a job is certainly done in the stage's own process. gpu: as in `Job`."""


class InProcess:
    """The executor that does all units in this process, in one call of the work."""

    def in_process(self, gpu: bool) -> bool:
        """Return True."""
        return True

    def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
        """Do the units, as described in `Executor`."""
        work: Work = pkgutil.resolve_name(job.work)
        for receipt in work(job.arguments, [*chain(*(unit.shards for unit in units))], advance):
            received(receipt)


IN_PROCESS = InProcess()


class Counted:
    """A counter of processed and rejected clips that reports both as progress."""

    def __init__(self, done: int, total: int, progress: Progress, noun: str = "clips") -> None:
        self.done, self.total, self.rejected, self._progress, self._noun = done, total, 0, progress, noun
        self._stored = self._advanced = (done, 0)
        self._waiting = ""
        progress(done, total, noun)

    def advance(self, good: int, rejected: int, waiting: str = "") -> None:
        """Count clips that a worker of this process has processed, or show what the executor waits for."""
        done, bad = self._advanced
        self._advanced = done + good + rejected, bad + rejected
        self._report(waiting)

    def store(self, clips: int, rejected: int) -> None:
        """Count the clips of a receipt, rejected ones included.

        They may have been counted by `advance`, in the same process or not at all.
        """
        done, bad = self._stored
        self._stored = done + clips, bad + rejected
        self._report()

    def _report(self, waiting: str = "") -> None:
        if max(self._stored, self._advanced) == (self.done, self.rejected) and not (waiting or self._waiting):
            return  # While something is waited for, each call is passed on: not every one is shown.
        self.done, self.rejected = max(self._stored, self._advanced)
        self._waiting = waiting
        note = f"{self._noun}, {self.rejected} rejected" if self.rejected else self._noun
        self._progress(self.done, self.total, f"{note}; {waiting}" if waiting else note)


def run_units(
    executor: Executor,
    job: Job,
    sizes: Mapping[str, int],
    per_unit: int,
    progress: Progress,
    noun: str = "clips",
    with_rejects: bool = True,
) -> None:
    """Have `executor` do all shards without a receipt, in units of `per_unit` shards.

    sizes: shard -> number of its clips, for progress; in the order in which they are done. noun: what sizes count.
    with_rejects: whether the progress shows the rejects of receipts, which then are some of what sizes count.

    Raises:
        StageError, ConfigError: as `Executor.run`; StageError also if a shard is not stored in the end.
    """
    out = Path(job.out)
    stored = begin_units(out, sizes.keys())
    missing = [shard for shard in sizes if shard not in stored]
    total = sum(sizes.values())
    counted = Counted(total - sum(sizes[shard] for shard in missing), total, progress, noun)

    settled: set[str] = set()

    def received(receipt: Receipt) -> None:
        if receipt.shard in settled or not settle(out, receipt):
            return
        settled.add(receipt.shard)
        counted.store(sizes[receipt.shard], receipt.rejects if with_rejects else 0)

    if missing:
        units = (
            Unit(number, tuple(missing[first : first + per_unit]))
            for number, first in enumerate(range(0, len(missing), per_unit))
        )
        executor.run(job, units, received, counted.advance)
    for shard in missing:
        if shard not in settled and (receipt := read_receipt(out, shard)) is not None:
            received(receipt)
    if lost := [shard for shard in missing if shard not in settled]:
        raise StageError(
            f"{job.name}: {len(lost)} of {len(missing)} shards are not stored ({lost[0]} first). What is finished is "
            "kept: run this again."
        )
