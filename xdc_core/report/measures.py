"""Histograms of what was measured of the clips to learn from, with the thresholds of the section `select`."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from shards.corpus.index import in_splits, index_path, read_index, shard_names
from shards.media.measures import QUIETEST_DB
from shards.store.parquet import read_schema
from xdc_core.data.selection import THRESHOLDS
from xdc_core.report.charts import histogram_chart
from xdc_core.report.settings import Reporting

# The bins; the outer ones also hold what lies beyond. Motion has a logarithmic axis.
EDGES = {
    "motion": np.geomspace(0.1, 1000, 61),
    "level_db": np.linspace(QUIETEST_DB, 0, 61),
    "shots": np.arange(0.5, 21),
}
TITLES = {"motion": "Motion of the clips", "level_db": "Level of their sound", "shots": "Shots in them"}


def measure_charts(corpus: Path, settings: Reporting) -> dict[str, Markup]:
    """Return a histogram for each measure that clips to learn from have, by heading. A dashed line: its threshold.

    Reads the index shard by shard; memory does not grow with the corpus. Without measures (a corpus of an earlier
    version) there is none.

    Raises:
        StageError: an index cannot be read.
    """
    shards, limits, charts = shard_names(corpus), settings.select.thresholds, {}
    counts = {column: np.zeros(len(edges) - 1, np.int64) for column, edges in EDGES.items()}
    if not shards or not {*counts} <= {*read_schema(index_path(corpus, shards[0]), "shard").names}:
        return {}
    for shard in shards:
        table = read_index(corpus, shard, ["split", *counts])
        table = table.filter(pa.array(in_splits(table["split"], settings.learn_splits)))
        for column, edges in EDGES.items():
            values = np.clip(table[column].drop_null().to_numpy(), edges[0], edges[-1])
            counts[column] += np.histogram(values, edges)[0]
    for name, (column, what, _) in THRESHOLDS.items():
        if counts[column].any():
            title = TITLES[column] + (f" (select.{name}: {limits[name]:g})" if name in limits else "")
            chart = histogram_chart(counts[column].tolist(), EDGES[column].tolist(), what, title, limits.get(name))
            charts[title] = Markup(chart)
    return charts
