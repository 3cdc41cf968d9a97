"""Curves go to the trackers beside the stages: no stage waits for a tracker, which may import torch or be far away."""

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor

from flows.orchestration.best_effort import only_reported
from shards.errors import Busy
from xdc_core.runs.run import Run
from xdc_core.tracking.publish import publish

_SENDER = ThreadPoolExecutor(1, thread_name_prefix="curves")
_ON_THE_WAY: set[Future[None]] = set()


def send_curves(run: Run) -> None:
    """Have the trackers of the configuration told what is new. Returns at once."""
    _ON_THE_WAY.add(_SENDER.submit(_send, run))


def await_curves() -> None:
    """Until the trackers know all that they were to be told."""
    for sent in tuple(_ON_THE_WAY):
        sent.result()
        _ON_THE_WAY.discard(sent)


def _send(run: Run) -> None:
    for name in run.config.report.track:
        # Who is at it sends ours too, or the next does.
        with only_reported(f"the curves in {name}"), contextlib.suppress(Busy):
            publish(run, name)
