"""Weights & Biases. WANDB_MODE=offline keeps everything in RUN/tracking/wandb, for `wandb sync`."""

import os
from collections.abc import Mapping
from typing import Any

import wandb

from xdc_core.config.methods import clustered_sources
from xdc_core.runs.run import Run


class WeightsAndBiases:
    """One run there. Its step counter only grows; each axis is therefore logged as a metric of its own."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """Log values with their step on their axis."""
        self.run.log({f"{axis}/step" if axis != "round" else "round": step, **values})

    def close(self) -> dict[str, Any]:
        """Finish sending. Returns the id of the run, which the next call continues."""
        known = {"id": self.run.id}
        self.run.finish()
        return known


def track(run: Run, known: dict[str, Any]) -> WeightsAndBiases:
    """Continue a run, or begin one, in the project of WANDB_PROJECT, else `xdc`."""
    folder = run.root / "tracking"
    folder.mkdir(parents=True, exist_ok=True)
    opened = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "xdc"),
        name=run.root.resolve().name,
        id=known.get("id"),
        resume="allow",
        dir=str(folder),
        config=run.config.model_dump(mode="json"),
        settings=wandb.Settings(console="off", silent=True),
    )
    opened.define_metric("round")
    for axis in run.config.modalities:
        opened.define_metric(f"{axis}/step")
        opened.define_metric(f"{axis}/*", step_metric=f"{axis}/step")
    sources = clustered_sources(run.config.method, run.config.modalities)
    for group in (*(f"clusters_{source}" for source in sources), "evaluations"):
        opened.define_metric(f"{group}/*", step_metric="round")
    return WeightsAndBiases(opened)
