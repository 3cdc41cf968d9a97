"""The clips that thresholds (section `select`) leave to clustering and training, from the measures in the index."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.command import stage_command
from shards.corpus.index import in_splits, index_path, read_index, shard_names
from shards.errors import ConfigError
from shards.store.parquet import read_schema
from xdc_core.config.selection import SelectSettings


class Threshold(NamedTuple):
    """The column of the index that a threshold is for, what lies in it, and the comparison that a kept clip meets."""

    column: str
    what: str
    keeps: Callable[[Any, Any], Any]


THRESHOLDS = {
    "min_motion": Threshold("motion", "motion: change of luma (0 to 255) a second", pc.greater_equal),
    "min_level_db": Threshold("level_db", "level of the sound: dB (RMS) re full scale", pc.greater_equal),
    "max_shots": Threshold("shots", "shots in a clip", pc.less_equal),
}


def measure_columns(select: SelectSettings) -> list[str]:
    """Return the columns of the index that the thresholds need."""
    return [THRESHOLDS[name].column for name in select.thresholds]


def kept(table: pa.Table, select: SelectSettings, corpus: Path) -> dict[str, np.ndarray]:
    """Return by threshold which rows of an index it keeps, bool [rows]. `corpus`: of the index, for messages.

    Raises:
        ConfigError: a clip was not measured.
    """
    masks = {}
    for name, value in select.thresholds.items():
        column, _, keeps = THRESHOLDS[name]
        lacking = len(table) if column not in table.column_names else table[column].null_count
        if lacking:
            raise not_measured(name, lacking, len(table), corpus)
        masks[name] = keeps(table[column], pa.scalar(value, pa.float64())).to_numpy()
    return masks


def selected(table: pa.Table, select: SelectSettings, corpus: Path) -> np.ndarray:
    """Return which rows of an index all thresholds keep, bool [rows]. Raises ConfigError as `kept` does."""
    chosen = np.ones(len(table), bool)
    for mask in kept(table, select, corpus).values():
        chosen &= mask
    return chosen


def not_measured(name: str, lacking: int, clips: int, corpus: Path) -> ConfigError:
    """Return the error for a threshold whose column is missing or null."""
    again = stage_command("shard", force=True)
    return ConfigError(
        f"select.{name} needs the column {THRESHOLDS[name].column} of {corpus}, which {lacking} of {clips} clips lack. "
        f"If an earlier version cut them, `{again}` cuts the same clips again and measures them, and what was learnt "
        f"stays fresh. If the corpus does not hold the modality, set select.{name} to null."
    )


class LeftOut(NamedTuple):
    """How many clips to learn from each threshold leaves out, how many all together do, and of how many."""

    by_threshold: dict[str, int]
    together: int
    clips: int


def count_left_out(corpus: Path, splits: Sequence[str] | None, select: SelectSettings) -> LeftOut:
    """Count the clips of a committed corpus in `splits` (None: all) that the thresholds leave out.

    Reads the columns of measures of every shard.

    Raises:
        ConfigError: a clip was not measured.
        StageError: an index cannot be read.
    """
    counts, together, clips = dict.fromkeys(select.thresholds, 0), 0, 0
    for shard in shard_names(corpus):
        table = read_measures(corpus, shard, select, "split")
        table = table.filter(pa.array(in_splits(table["split"], splits)))
        masks = kept(table, select, corpus)
        for name, mask in masks.items():
            counts[name] += int((~mask).sum())
        together += int((~np.all([*masks.values()], axis=0)).sum()) if masks else 0
        clips += len(table)
    return LeftOut(counts, together, clips)


def read_learnable(
    corpus: Path, shard: str, splits: Sequence[str] | None, select: SelectSettings, *columns: str
) -> pa.Table:
    """Read columns of the index for the clips of a shard that are in some splits (None: all) and that thresholds keep.

    Raises:
        StageError: the index cannot be read.
        ConfigError: a clip was not measured as a threshold needs it.
    """
    index = read_measures(corpus, shard, select, *columns, "split")
    return index.filter(in_splits(index["split"], splits) & selected(index, select, corpus))


def read_measures(corpus: Path, shard: str, select: SelectSettings, *columns: str) -> pa.Table:
    """Read columns of a shard's index, and those that the thresholds need as far as it has them.

    Raises:
        StageError: the index cannot be read.
    """
    needed = measure_columns(select)
    there = set(read_schema(index_path(corpus, shard), "shard").names) if needed else set()
    return read_index(corpus, shard, [*columns, *(name for name in needed if name in there)])
