"""The results of an evaluation: all trials, and the mean and spread of every metric."""

import json

import pyarrow as pa

from shards.store.stage import Task
from xdc_core.config.evaluation import CORPUS
from xdc_core.documents.results import Results, Spread, Trial
from xdc_core.evaluation.recordings import Recordings
from xdc_core.evaluation.settings import Evaluation
from xdc_core.evaluation.spread import spread


def summarise(task: Task[Evaluation], recordings: Recordings, trials: list[Trial]) -> Results:
    """Return the results: all trials, and the mean and spread of every metric."""
    given, evaluation, views = task.settings, task.settings.evaluation, task.settings.views
    # The splits of a corpus (validation, test) are not repetitions: the metrics are those of the last one.
    last = list(recordings.splits)[-1]
    counting = trials if evaluation.data != CORPUS else [trial for trial in trials if trial.split == last]
    warnings = [f"{trial.split}, seed {trial.seed}: {text}" for trial in trials for text in trial.warnings]
    warnings += [f"{count} recordings: {reason}" for reason, count in recordings.missing.items()]
    warnings += recordings.notes
    return Results(
        evaluation=task.about,
        run=task.root.resolve().name,
        round=task.round,
        method=given.method,
        control=given.control,
        data=evaluation.data,
        layout=given.dataset.layout if given.dataset else None,
        protocol=evaluation.protocol,
        modality=views.modality.name if views else None,
        encoder=given.encoder,
        weights=given.weights,
        settings=evaluation.model_dump(mode="json"),
        dataset=given.dataset.model_dump(mode="json") if given.dataset else None,
        classes=list(recordings.classes),
        metrics=spreads(counting),
        by_split={split: spreads([t for t in trials if t.split == split]) for split in recordings.splits},
        warnings=warnings,
        trials=trials,
    )


def spreads(trials: list[Trial]) -> dict[str, Spread]:
    """Return the spread of every metric over the trials that have it."""
    names = sorted({name for trial in trials for name in trial.metrics})
    return {name: spread([trial.metrics[name] for trial in trials if name in trial.metrics]) for name in names}


def table_of(results: Results) -> pa.Table:
    """Return the table results.parquet: one row per split, seed and metric, with the identifying columns."""
    common = ("evaluation", "run", "round", "method", "control", "data", "protocol", "modality", "encoder", "weights")
    rows = [
        {name: getattr(results, name) for name in common}
        | {"split": trial.split, "seed": trial.seed, "train": trial.train, "test": trial.test}
        | {"metric": metric, "value": value}
        | {
            "settings": json.dumps(results.settings, sort_keys=True),
            "dataset": json.dumps(results.dataset, sort_keys=True),
            "chosen": json.dumps(trial.chosen, sort_keys=True),
        }
        for trial in results.trials
        for metric, value in trial.metrics.items()
    ]
    return pa.Table.from_pylist(rows)
