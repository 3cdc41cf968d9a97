"""Curves are sent to trackers beside the stages: no stage waits for a tracker, which may import torch or be slow."""

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor

from flows.orchestration.best_effort import only_reported
from shards.errors import Busy
from xdc_core.runs.run import Run
from xdc_core.tracking.publish import publish

_SENDER = ThreadPoolExecutor(1, thread_name_prefix="curves")
_PENDING: set[Future[None]] = set()


def send_curves(run: Run) -> None:
    """Send what is new to the trackers of the configuration, in another thread. Returns at once."""
    _PENDING.add(_SENDER.submit(_send, run))


def await_curves() -> None:
    """Return when all that was sent has arrived, or has failed."""
    for sent in tuple(_PENDING):
        sent.result()
        _PENDING.discard(sent)


def _send(run: Run) -> None:
    for name in run.config.report.track:
        # A process that is sending sends these points, too, or the next one does.
        with only_reported(f"the curves in {name}"), contextlib.suppress(Busy):
            publish(run, name)
