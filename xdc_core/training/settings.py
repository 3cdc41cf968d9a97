"""The part of the configuration for the train stage."""

from dataclasses import dataclass
from typing import Any

from shards.section import hashed_settings
from xdc_core.config.schema import RunsOn
from xdc_core.config.selection import ALL_CLIPS, SelectSettings
from xdc_core.config.training import TrainSettings
from xdc_core.modalities.view import Views

FEW = 16  # Below this number of clips batch norm is noisy.


@dataclass(frozen=True)
class Training:
    """The part of the configuration for the train stage. `runs_on` is not part of the fingerprint.

    sources: the label sources that the method gives the encoder. With `train.protect` a round may have others.
    """

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


def few_clips(seen: int, setting: str, remedy: str) -> str:
    """Return a warning if batch norm sees fewer than 16 clips at a time; else "".

    setting: the name of the batch's size. remedy: an imperative.
    """
    if seen >= FEW:
        return ""
    return f"batch norm sees {seen} clips at a time ({setting} counts all processes): noisy below {FEW}. {remedy}."
