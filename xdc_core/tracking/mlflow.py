"""MLflow: the server of MLFLOW_TRACKING_URI, else an SQLite file RUN/tracking/mlflow.db."""

import os
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient

from xdc_core.runs.run import Run


class MLflow:
    """A tracker for one run in MLflow."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """Log metrics by their names; MLflow allows no colons in them."""
        for name, value in values.items():
            self.client.log_metric(self.run_id, name.replace(":", "_"), value, step=step)

    def close(self) -> dict[str, Any]:
        """Mark the run as finished. Return its id, with which the next call continues it."""
        self.client.set_terminated(self.run_id)
        return {"run_id": self.run_id}


def track(run: Run, known: dict[str, Any]) -> MLflow:
    """Continue a run, or begin one, in the experiment `xdc`."""
    folder = (run.root / "tracking").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder}/mlflow.db")
    if "run_id" in known:
        return MLflow(client, known["run_id"])
    existing = client.get_experiment_by_name("xdc")
    experiment = existing.experiment_id if existing else client.create_experiment("xdc")
    begun = client.create_run(experiment, run_name=run.root.resolve().name)
    given = run.config.as_given
    for name, value in (("method", given.method), ("seed", given.seed), ("rounds", given.rounds)):
        client.log_param(begun.info.run_id, name, value)
    return MLflow(client, begun.info.run_id)
