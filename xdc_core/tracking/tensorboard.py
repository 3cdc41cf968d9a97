"""Event files for TensorBoard, in RUN/tracking/tensorboard."""

import time
from collections.abc import Mapping
from typing import Any

from tensorboardX import SummaryWriter

from xdc_core.runs.run import Run


class TensorBoard:
    """A tracker that writes a new event file; TensorBoard reads all files of a directory as one run."""

    def __init__(self, writer: SummaryWriter) -> None:
        self.writer = writer

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """Write scalars by their names."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> dict[str, Any]:
        """Close the event file. Return {}, because the directory identifies the run."""
        self.writer.close()
        return {}


def track(run: Run, known: dict[str, Any]) -> TensorBoard:
    """Begin another event file of a run."""
    # Without the suffix, a file that is begun in the same second as another would replace it.
    return TensorBoard(SummaryWriter(str(run.root / "tracking" / "tensorboard"), filename_suffix=f".{time.time_ns()}"))
