"""The part of the configuration for the train stage."""

from dataclasses import dataclass
from typing import Any

from shards.section import hashed_settings
from xdc_core.config.schema import RunsOn, TrainSettings
from xdc_core.config.selection import ALL_CLIPS, SelectSettings
from xdc_core.modalities.view import Views


@dataclass(frozen=True)
class Training:
    """The part of the configuration for the train stage. `runs_on` is not part of the fingerprint."""

    seed: int
    learn_splits: list[str] | None
    sources: tuple[str, ...]
    views: Views
    train: TrainSettings
    runs_on: RunsOn
    select: SelectSettings = ALL_CLIPS

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide the encoder."""
        return {
            "seed": self.seed,
            "learn_splits": self.learn_splits,
            "sources": list(self.sources),
            "view": self.views.hashed(training=True),
            **hashed_settings(self.train, {"own_head_weight"} if len(self.sources) == 1 else ()),
            **self.select.hashed(),
        }
