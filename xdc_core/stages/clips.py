"""The stages that cut videos into clips: `shard` for the run's corpus, `data` for data sets to evaluate on."""

from dataclasses import replace
from pathlib import Path

from shards.corpus.stage import StoredSettings, clip_stage
from shards.progress import Progress
from shards.settings import CorpusSettings
from shards.store.build import Record
from shards.store.executor import Executor
from shards.store.stage import Stage
from xdc_core.config.schema import Config
from xdc_core.outside.corpus import index_features
from xdc_core.runs.corpora import stored_from
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, dataset_settings
from xdc_core.runs.task import unit_logs


def _corpus(config: Config, number: int | None) -> list[Node]:
    return [SHARD] if number is None else []


def _data_sets(config: Config, number: int | None) -> list[Node]:
    """Return the data sets that evaluations in rounds need; others are cut on request."""
    needed = {evaluation.data for evaluation in config.evaluate.values() if evaluation.when != "asked"}
    return [Node("data", name) for name in config.datasets if name in needed] if number is None else []


def _corpus_settings(config: Config, node: Node) -> CorpusSettings:
    return config.corpus


def _data_set_settings(config: Config, node: Node) -> CorpusSettings:
    return dataset_settings(config, str(node.modality))


def _logs(run: Run) -> Path:
    return unit_logs(run.root)


CUT_STAGE: Stage[Config, Run, StoredSettings] = clip_stage(
    "shard", "Cut the raw videos of a run's corpus into clips.", None, _corpus, _corpus_settings, stored_from, _logs
)


def _cut_or_index(run: Run, node: Node, progress: Progress, force: bool, executor: Executor) -> Record:
    """Build the corpus of videos, or of the features that the run is given."""
    if run.features:
        return index_features(run.corpus, run.features, run.config.corpus, progress, force)
    assert CUT_STAGE.build is not None
    return CUT_STAGE.build(run, node, progress, force, executor)


SHARD_STAGE = replace(CUT_STAGE, build=_cut_or_index)
DATA_STAGE: Stage[Config, Run, StoredSettings] = clip_stage(
    "data",
    "Cut the recordings of a data set to evaluate on into clips.",
    "name",
    _data_sets,
    _data_set_settings,
    stored_from,
    _logs,
)
