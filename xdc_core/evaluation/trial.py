"""One trial: an evaluation on one official split with one seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from shards.store.parquet import write_parquet
from xdc_core.evaluation.predictions import Verdict, accuracy, mean_class_accuracy, per_class


class Trial(BaseModel):
    """What came out. `train` and `test` count recordings; `chosen` has the candidates and their held-out scores."""

    model_config = ConfigDict(extra="forbid")

    split: str
    seed: int
    train: int
    test: int
    metrics: dict[str, float]
    chosen: dict[str, Any] = {}
    per_class: list[dict[str, Any]] = []
    warnings: tuple[str, ...] = ()


def trial_of(
    verdict: Verdict, classes: Sequence[str], split: str, seed: int, train: int, warnings: tuple[str, ...] = ()
) -> Trial:
    """The figures of a classification. `warnings` are added to the verdict's."""
    metrics = {"accuracy": accuracy(verdict), "mean_class_accuracy": mean_class_accuracy(verdict)}
    rows = [row | {"class": classes[row["class"]]} for row in per_class(verdict)]
    return Trial(
        split=split,
        seed=seed,
        train=train,
        test=len(verdict.groups),
        metrics={name: round(value, 6) for name, value in metrics.items()},
        chosen=verdict.chosen,
        per_class=rows,
        warnings=verdict.warnings + warnings,
    )


def write_predictions(path: Path, verdict: Verdict, names: Sequence[str], classes: Sequence[str]) -> None:
    """A row a test recording: source, label, predicted, and the scores float32 [classes] in the order of `classes`."""
    scores = pa.FixedSizeListArray.from_arrays(pa.array(verdict.scores.reshape(-1), pa.float32()), len(classes))
    columns = {
        "source": pa.array([names[group] for group in verdict.groups], pa.string()),
        "label": pa.array([classes[label] for label in verdict.truth], pa.string()),
        "predicted": pa.array([classes[label] for label in verdict.predicted], pa.string()),
        "scores": scores,
    }
    write_parquet(path, pa.table(columns))
