"""Send metrics from the files of a run to TensorBoard, Weights & Biases or MLflow."""

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Protocol

from shards.errors import ConfigError
from shards.store.files import write_json
from shards.store.lock import exclusive
from xdc_core.runs.run import Run
from xdc_core.tracking.points import points

# Tracker -> the module of this package that writes to it, and the extra that installs what it needs.
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


class Tracker(Protocol):
    """The interface of a tracker for one run."""

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """Add values at a step of an axis."""

    def close(self) -> dict[str, Any]:
        """Write what is buffered. Return what is needed to continue the same run next time."""


def publish(run: Run, name: str) -> int:
    """Send a tracker the points of a run that it does not have yet; RUN/tracking/<name>.json lists what was sent.

    Return the number of points sent.

    Raises:
        ConfigError: the tracker is unknown, or its package is not installed (the text has the command).
        Busy: another process is sending them.
    """
    if name not in TRACKERS:
        raise ConfigError(f"there is no tracker {name!r}. There are: {', '.join(TRACKERS)}.")
    file = run.root / "tracking" / f"{name}.json"
    with exclusive(file):
        state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        sent: dict[str, int] = state.get("sent", {})
        new = [point for point in points(run) if point.step > sent.get(point.part, -1)]
        if not new:
            return 0
        tracker = _open(name)(run, state.get("tracker", {}))
        try:
            for point in new:
                tracker.log(point.axis, point.step, point.values)
                sent[point.part] = point.step
        finally:
            known = tracker.close()
            write_json(file, {"tracker": known, "sent": sent})
    return len(new)


def _open(name: str) -> Callable[[Run, dict[str, Any]], Tracker]:
    try:
        opener: Callable[[Run, dict[str, Any]], Tracker] = import_module(f"xdc_core.tracking.{TRACKERS[name]}").track
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{name} needs the package {error.name}, which is not installed. Install the extra: "
            f"pip install 'xdc-pipeline[{name}]'"
        ) from error
    return opener
