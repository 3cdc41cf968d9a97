"""The run with which a plan tries a sample: the settings of the run that is planned, but few clips and one round."""

import math
from pathlib import Path
from typing import Any

from xdc_core.config.clustering import k_in_round
from xdc_core.config.load import FILE_NAME, parse_config
from xdc_core.config.methods import clustered_sources
from xdc_core.config.schema import Config
from xdc_core.config.write import commented_yaml
from xdc_core.runs.run import Run, open_run

SAMPLE = "sample.csv"
SHARDS = 8  # At most: what lies between two of them is compared.
STEPS = 12  # Of the training that is tried; the first is left out.
FEWEST = 4  # Clips a cluster at least, where a sample has fewer clips than the run has clusters for.


def trial_config(run: Run, expected: int, clips: int | None = None) -> Config:
    """Return the configuration of the trial of a run. expected: clips of the sample by the headers of its files; clips:
    those that there are, once it is cut.

    Evaluations, trackers, thresholds, splits and the stopping rule are left out: they could refuse a small sample.
    """
    config = run.config
    values: dict[str, Any] = config.model_dump(mode="json")
    corpus, runs_on, train = values["corpus"], values["runs_on"], values["train"]
    corpus |= {"path": "corpus", "videos": SAMPLE, "layout": None, "label_from_folder": False, "append": False}
    corpus |= {"learn_splits": None, "max_reject_share": 1.0}
    for modality in config.modalities:
        if (weights := run.weights(modality)) is not None:
            values[modality]["weights"] = str(weights)
    values |= {"rounds": 1, "last_training": "none", "datasets": {}, "evaluate": {}}
    for section in ("select", "stop", "retain"):
        values.pop(section)
    values["report"]["track"] = []
    if runs_on["executor"] != "local":
        runs_on |= {"executor": "local", "executor_settings": {}}
    train["processes"] //= runs_on["nodes"]
    runs_on |= {"nodes": 1, "rendezvous": None}
    train |= {"clips": STEPS * train["batch"], "log_every": 1, "checkpoint_every": 10 * STEPS}
    corpus["clips_per_shard"] = min(corpus["clips_per_shard"], max(1, math.ceil(expected / SHARDS)))
    if clips is not None:
        values["cluster"]["k"] = {
            source: max(2, min(largest_k(config, source), clips // FEWEST)) for source in values["cluster"]["k"]
        }
    return parse_config(values, "the settings of the trial")


def largest_k(config: Config, source: str) -> int:
    """Return the largest number of clusters that a label source has in a round."""
    return max(k_in_round(config.cluster, source, number) or 0 for number in range(config.last_round + 1))


def write_trial(root: Path, config: Config) -> Run:
    """Write the configuration of a trial into a directory, and return the run."""
    (root / FILE_NAME).write_text(commented_yaml(config), encoding="utf-8")
    return open_run(root)


def label_sources(config: Config) -> tuple[str, ...]:
    """Return the label sources that a run clusters."""
    return tuple(clustered_sources(config.method, config.modalities))
