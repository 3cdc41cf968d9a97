"""What a report is given of the configuration."""

from dataclasses import dataclass
from typing import Any

from shards.section import hashed_settings
from shards.store.node import Node
from xdc_core.config.schema import ReportSettings


@dataclass(frozen=True)
class Reporting:
    """What the work is given of the configuration.

    rounds: how many there are. nodes: what the round has used and done, in the order in which the report lists it.
    configuration: the whole of it as commented YAML, which is stored beside the report as it was.
    """

    method: str
    rounds: int
    nodes: tuple[Node, ...]
    report: ReportSettings
    configuration: str

    def hashed(self) -> dict[str, Any]:
        """Return what decides the report, beside its inputs."""
        return {"method": self.method, **hashed_settings(self.report)}
