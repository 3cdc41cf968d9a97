"""Weights & Biases. WANDB_MODE=offline keeps everything in RUN/tracking/wandb, for `wandb sync`."""

import os
from collections.abc import Mapping
from typing import Any

import wandb

from xdc_core.runs.run import Run


class WeightsAndBiases:
    """One run there. Its own step counter only grows, so that each axis is a value of its own."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """Values with the place on their axis."""
        self.run.log({f"{axis}/step" if axis != "round" else "round": step, **values})

    def close(self) -> dict[str, Any]:
        """Its id: the next call goes on with it."""
        known = {"id": self.run.id}
        self.run.finish()
        return known


def track(run: Run, known: dict[str, Any]) -> WeightsAndBiases:
    """Go on with a run, or begin one, in the project `xdc` (WANDB_PROJECT is heeded)."""
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
    for axis in ("video", "audio"):
        opened.define_metric(f"{axis}/step")
        opened.define_metric(f"{axis}/*", step_metric=f"{axis}/step")
    for group in ("clusters_video", "clusters_audio", "clusters_joint", "evaluations"):
        opened.define_metric(f"{group}/*", step_metric="round")
    return WeightsAndBiases(opened)
