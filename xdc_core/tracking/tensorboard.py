"""Event files for TensorBoard, in RUN/tracking/tensorboard."""

import time
from collections.abc import Mapping
from typing import Any

from tensorboardX import SummaryWriter

from xdc_core.runs.run import Run


class TensorBoard:
    """Appends a new event file; TensorBoard reads all of a directory as one."""

    def __init__(self, writer: SummaryWriter) -> None:
        self.writer = writer

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """Scalars by their names."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> dict[str, Any]:
        """Nothing must be known: the directory is the run."""
        self.writer.close()
        return {}


def track(run: Run, known: dict[str, Any]) -> TensorBoard:
    """Go on with a run's event files."""
    # Without the suffix, two files that are begun in the same second are one, and the first is lost.
    return TensorBoard(SummaryWriter(str(run.root / "tracking" / "tensorboard"), filename_suffix=f".{time.time_ns()}"))
