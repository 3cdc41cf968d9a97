"""One trial: an evaluation on one official split with one seed."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from shards.store.parquet import write_parquet
from xdc_core.documents.results import Trial as Trial
from xdc_core.evaluation.predictions import Predictions, accuracy, mean_class_accuracy, per_class


def trial_of(
    predictions: Predictions, classes: Sequence[str], split: str, seed: int, train: int, warnings: tuple[str, ...] = ()
) -> Trial:
    """Return the trial of a classification. `warnings` are added to those of the predictions."""
    metrics = {"accuracy": accuracy(predictions), "mean_class_accuracy": mean_class_accuracy(predictions)}
    rows = [row | {"class": classes[row["class"]]} for row in per_class(predictions)]
    return Trial(
        split=split,
        seed=seed,
        train=train,
        test=len(predictions.groups),
        metrics={name: round(value, 6) for name, value in metrics.items()},
        chosen=predictions.chosen,
        per_class=rows,
        warnings=predictions.warnings + warnings,
    )


def write_predictions(path: Path, predictions: Predictions, names: Sequence[str], classes: Sequence[str]) -> None:
    """Write a row per test recording: source, label, predicted, and scores, float32 [classes]."""
    scores = pa.FixedSizeListArray.from_arrays(pa.array(predictions.scores.reshape(-1), pa.float32()), len(classes))
    columns = {
        "source": pa.array([names[group] for group in predictions.groups], pa.string()),
        "label": pa.array([classes[label] for label in predictions.truth], pa.string()),
        "predicted": pa.array([classes[label] for label in predictions.predicted], pa.string()),
        "scores": scores,
    }
    write_parquet(path, pa.table(columns))
