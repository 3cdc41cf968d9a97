"""The part of the configuration for the eval stage."""

from dataclasses import dataclass
from typing import Any

from shards.section import hashed_settings
from xdc_core.config.clustering import ClusterSettings, clustering_settings
from xdc_core.config.evaluation import CORPUS, DatasetSettings, EvaluationSettings
from xdc_core.config.protocols import probe_settings
from xdc_core.config.schema import RunsOn
from xdc_core.modalities.view import Views


@dataclass(frozen=True)
class Evaluation:
    """The part of the configuration for the eval stage.

    evaluation: the entry of the evaluation. dataset: the entry of its data set; None for the run's own corpus. views:
    of its modality; None if it has several. layout: of the corpus or data set. cluster: for the protocol `clusters`.
    method, control, learn_splits, encoder, weights: how the encoders were made, for the results and their warnings;
    they enter the fingerprint through the encoders. encoder: None if there are several, or if the features are given.
    weights: the file of weights, the model, or the folder of features from which the modality starts.
    """

    seed: int
    evaluation: EvaluationSettings
    dataset: DatasetSettings | None
    views: Views | None
    layout: str | None
    cluster: ClusterSettings
    method: str
    control: bool
    learn_splits: list[str] | None
    encoder: str | None
    weights: str | None
    runs_on: RunsOn

    @property
    def views_each(self) -> int:
        """Return the number of views per recording."""
        return self.dataset.views if self.dataset else 1

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide the results."""
        unused = {"label", "learn", "test"} if self.evaluation.data != CORPUS else {"splits"}
        tuned = self.evaluation.protocol == "all"
        settings = hashed_settings(self.evaluation, unused | (set() if tuned else {"finetune"}))
        if tuned:
            assert self.views is not None
            if self.evaluation.finetune.seed_per_view:
                settings["finetune"]["seed_per_view"] = True
            settings["view"] = self.views.hashed(training=True)
            settings["views"] = self.views_each
        if self.evaluation.protocol == "clusters":
            # A trial has one clustering, and several seeds give several.
            own = clustering_settings(self.cluster)
            settings["cluster"] = {name: value for name, value in own.items() if name != "heads"}
        return {"seed": self.seed, **settings, **probe_settings(self.evaluation.protocol)}
