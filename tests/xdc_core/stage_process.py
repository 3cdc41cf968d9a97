"""A stage in a process of its own, to be sent signals."""

import signal
import time
from pathlib import Path

from tests.warm import STAGE, WarmProcess, warm
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


def start(run: Run, node: Node, environment: dict[str, str] | None = None) -> WarmProcess:
    """What `python -m xdc_core` does for a node, in a process group of its own."""
    words = [word for word in (node.modality, node.round) if word is not None]
    return warm(STAGE, node.stage, run.root, *words, env=environment)


def checkpointed_step(directory: Path) -> int:
    """The step of the newest checkpoint in a partial directory, whoever goes on with it; 0 without one."""
    begun = directory.parent.glob(f"{directory.stem}*.partial/checkpoint-*.pt")
    steps = [int(path.stem.split("-")[1]) for path in begun]
    return max(steps, default=0)


def wait_for_checkpoint(process: WarmProcess, directory: Path, step: int) -> None:
    """Return once the newest checkpoint is beyond `step`."""
    deadline = time.monotonic() + 120
    while checkpointed_step(directory) <= step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def signalled_after(process: WarmProcess, directory: Path, step: int, number: signal.Signals) -> str:
    """Send a signal once the checkpoint is beyond `step`; returns what the process said on stderr."""
    wait_for_checkpoint(process, directory, step)
    process.send_signal(number)
    return process.communicate(timeout=60)[1]
