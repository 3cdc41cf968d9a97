"""The units of a job that workers have not done yet, and how many of them a worker gets at once."""

import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from shards.store.executor import Job, Unit
from shards.store.receipt import Receipt, read_receipt

# A worker gets units for so many seconds at a time, because each time it loads its encoder: at most so many units.
SECONDS_AT_ONCE, MOST_AT_ONCE = 15.0, 1000
AHEAD = 10_000  # Units that are looked at ahead, so that the last ones are distributed evenly.


class Queue:
    """The units that are not yet done by a worker, and how often each was tried. `workers` may be changed.

    ahead: how many of `units` are looked at before a worker gets them.
    """

    def __init__(self, units: Iterable[Unit], workers: int = 1, ahead: int = AHEAD) -> None:
        self.workers, self._most_ahead = workers, ahead
        self._units = iter(units)
        self._ahead: deque[Unit] = deque()
        self._again: deque[Unit] = deque()
        self._suspect: deque[Unit] = deque()
        self._tries: dict[int, int] = {}

    def look_ahead(self) -> int:
        """Look at more units. Return how many of those looked at wait; 0 only if there are no more."""
        self._ahead.extend(islice(self._units, self._most_ahead - len(self._ahead)))
        return len(self._suspect) + len(self._again) + len(self._ahead)

    def take(self, most: int) -> list[Unit]:
        """Return the next units, at most so many. A unit at which a worker has failed comes alone, so that the death of
        its next worker is its own; those behind it come together, as before.
        """
        if self._suspect:
            return [self._suspect.popleft()]
        share = -(-self.look_ahead() // (2 * self.workers))
        return [(self._again or self._ahead).popleft() for _ in range(min(most, share))]

    def put_back(self, units: list[Unit]) -> int:
        """Take units of a worker that has failed at the first of them. Return how often that one was tried."""
        self._suspect.append(units[0])
        self._again.extend(units[1:])
        self._tries[units[0].number] = self._tries.get(units[0].number, 0) + 1
        return self._tries[units[0].number]


@dataclass
class Pace:
    """How many units a worker gets at once: more from time to time, until they take `SECONDS_AT_ONCE`."""

    at_once: int = 1
    since: float = 0.0

    def begin(self) -> None:
        """Note that the worker has been given units."""
        self.since = time.monotonic()

    def end(self, units: int) -> None:
        """Note that it has done so many units since then."""
        pace = units / max(time.monotonic() - self.since, 1e-3)
        self.at_once = max(1, min(int(pace * SECONDS_AT_ONCE), 4 * self.at_once, MOST_AT_ONCE))


def unfinished(
    job: Job, units: Iterable[Unit], stored: Container[str], received: Callable[[Receipt], None]
) -> Iterator[Unit]:
    """Yield what a worker has not done of its units. stored: shards whose receipts it has sent; others are read."""
    out = Path(job.out)
    for unit in units:
        missing = []
        for shard in unit.shards:
            if shard in stored:
                continue
            if (receipt := read_receipt(out, shard)) is not None:
                received(receipt)
            else:
                missing.append(shard)
        if missing:
            yield replace(unit, shards=tuple(missing))
