"""A stage in a process of its own, to be sent signals."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.places import ROOT
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


def start(run: Run, node: Node, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """`python -m xdc_core` for a node, in a process group of its own."""
    command = [sys.executable, "-m", "xdc_core", node.stage, str(run.root), str(node.modality), str(node.round)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        process_group=0,
    )


def checkpointed_step(directory: Path) -> int:
    """The step of the newest checkpoint in a partial directory, whoever goes on with it; 0 without one."""
    begun = directory.parent.glob(f"{directory.stem}*.partial/checkpoint-*.pt")
    steps = [int(path.stem.split("-")[1]) for path in begun]
    return max(steps, default=0)


def wait_for_checkpoint(process: "subprocess.Popen[str]", directory: Path, step: int) -> None:
    """Return once the newest checkpoint is beyond `step`."""
    deadline = time.monotonic() + 120
    while checkpointed_step(directory) <= step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def signalled_after(process: "subprocess.Popen[str]", directory: Path, step: int, number: signal.Signals) -> str:
    """Send a signal once the checkpoint is beyond `step`; returns what the process said on stderr."""
    wait_for_checkpoint(process, directory, step)
    process.send_signal(number)
    return process.communicate(timeout=60)[1]
