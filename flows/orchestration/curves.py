"""Send metrics to trackers in another thread, because a tracker may import torch or be slow."""

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor

from flows.orchestration.best_effort import only_reported
from shards.errors import Busy
from xdc_core.runs.run import Run
from xdc_core.tracking.publish import publish

_SENDER = ThreadPoolExecutor(1, thread_name_prefix="curves")
_PENDING: set[Future[None]] = set()


def send_curves(run: Run) -> None:
    """Send new metrics to the trackers of the configuration, in another thread. Return at once."""
    _PENDING.add(_SENDER.submit(_send, run))


def await_curves() -> None:
    """Wait until everything has been sent, or has failed."""
    for sent in tuple(_PENDING):
        sent.result()
        _PENDING.discard(sent)


def _send(run: Run) -> None:
    for name in run.config.report.track:
        # The process that is sending now, or the next one, sends these points, too.
        with only_reported(f"the metrics in {name}"), contextlib.suppress(Busy):
            publish(run, name)
