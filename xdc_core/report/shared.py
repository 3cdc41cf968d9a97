"""What modalities share in a round, and what they keep of their first clusters: measured without labels."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from shards.store.parquet import read_parquet, write_parquet
from shards.store.stage import Task
from xdc_core.documents.report import KeptRow, Report, SharedRow
from xdc_core.documents.teachers import Teachers
from xdc_core.report.settings import Reporting
from xdc_core.runs.node import Node

# The clips that are measured in all rounds, with their clusters in the first: a copy is in every round's report.
FILE_NAME = "first_clusters.parquet"
CLIPS = 4_000  # Fewer than decide who teaches: the page of a round is not to hold up the next one.


def measure_shared(
    task: Task[Reporting], modalities: Sequence[str], teachers: Teachers | None, before: Report | None
) -> tuple[list[SharedRow], list[KeptRow]]:
    """Return what each modality's clusters share with the others' features, and what features keep of first clusters.

    Writes the measured clips. modalities: those with features and clusters of their own; with fewer than two, or fewer
    than four clips that have pseudo-labels in all of them, nothing is measured. teachers: the round's teachers.json, if
    it has one. before: the report of the round before.

    Raises:
        StageError: a file is missing or damaged.
    """
    given, number = task.settings, task.round
    if not given.report.shared or len(modalities) < 2:
        return [], []
    from xdc_core.probes.shared import measure_pairs, read_sample, shared_information

    sample, features = read_sample(task, modalities, CLIPS)
    if not features:
        return [], []
    pairs = teachers.pairs if teachers else measure_pairs(sample, features, task.progress)
    first, since = sample.clusters, number
    if before and before.kept_history:
        earlier = read_parquet(task.directory(Node("report", None, number - 1)) / FILE_NAME, "report")
        if earlier["key"].to_pylist() == sample.keys.tolist():  # Else the corpus has changed: begin again.
            first, since = {name: earlier[name].to_numpy() for name in modalities}, before.kept_history[-1].since
    columns = {name: pa.array(clusters.astype(np.int32)) for name, clusters in first.items()}
    write_parquet(task.out / FILE_NAME, pa.table({"key": pa.array(sample.keys.tolist(), pa.string()), **columns}))
    kept = {name: shared_information(features[name], first[name], sample.sources).nats for name in modalities}
    return (
        [
            SharedRow(round=number, student=pair.student, teacher=pair.teacher, shared=pair.shared, within=pair.within)
            for pair in pairs
        ],
        [KeptRow(round=number, modality=name, since=since, kept=round(nats, 4)) for name, nats in kept.items()],
    )
