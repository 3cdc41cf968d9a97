"""The part of the configuration for the report stage."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shards.section import hashed_settings
from shards.store.node import Node
from xdc_core.config.schema import ReportSettings, RunsOn
from xdc_core.config.selection import SelectSettings


@dataclass(frozen=True)
class Reporting:
    """The part of the configuration for the report stage.

    rounds: the number of rounds that train one after the other. nodes: the nodes of the run and the round, in the order
    of the report. configuration: the whole configuration as commented YAML, which is stored with the report.
    learn_splits, select: which clips are learnt from. whiten: `cluster.whiten`, which kmeans.json of earlier versions
    lacks. videos: the folder or manifest of raw videos, relative to the run, to which the page links. layout: how they
    are laid out, if not as a plain folder or manifest.
    """

    seed: int
    learn_splits: list[str] | None
    runs_on: RunsOn
    method: str
    rounds: int
    nodes: tuple[Node, ...]
    report: ReportSettings
    configuration: Callable[[], str]
    select: SelectSettings
    whiten: bool
    videos: str | None
    layout: str | None

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide the report."""
        return {"method": self.method, **hashed_settings(self.report)}
