"""results.json: what an evaluation of a round's encoders measured."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from xdc_core.documents.document import Document, Number, read_document, write_document

FILE_NAME = "results.json"


class Spread(Document):
    """One number, measured n times. sd: of a sample (n - 1); None for a single value. The rest is None for n = 0."""

    n: int
    mean: Number | None
    sd: Number | None
    min: Number | None
    max: Number | None


class Trial(BaseModel):
    """An evaluation on one split with one seed, also stored alone as trials/<split>-<seed>.json, with all its fields.

    train, test: recordings. chosen: the hyper-parameter, and the held-out score of every candidate. per_class: a row
    per class, with its recordings and accuracy. warnings: what a reader of the metrics should know.
    """

    model_config = ConfigDict(extra="allow")

    split: str
    seed: int
    train: int
    test: int
    metrics: dict[str, float]
    chosen: dict[str, Any] = {}
    per_class: list[dict[str, Any]] = []
    warnings: tuple[str, ...] = ()


class Results(Document):
    """An evaluation of the encoders that a round begins with.

    control: whether they were trained on shuffled labels. data: "corpus", or the name of a data set, and its layout.
    modality, encoder, weights: of the encoder that is evaluated; None where the protocol uses several. settings and
    dataset: as in the configuration. metrics: by name, over the trials that count; by_split: over those of a split.
    """

    evaluation: str
    run: str
    round: int
    method: str
    control: bool = False
    data: str
    layout: str | None = None
    protocol: str
    modality: str | None
    encoder: str | None = None
    weights: str | None = None
    settings: dict[str, Any]
    dataset: dict[str, Any] | None = None
    classes: list[str] = Field([])
    metrics: dict[str, Spread]
    by_split: dict[str, dict[str, Spread]] = Field({})
    warnings: list[str] = Field([])
    trials: list[Trial] = Field([])

    @field_serializer("trials")
    def _with_all_fields(self, trials: list[Trial]) -> list[dict[str, Any]]:
        # A trial that was read from its file after an interruption must give the same bytes as one just measured.
        return [trial.model_dump(mode="json") for trial in trials]


# The metric of a protocol that stands for it where there is room for one; results.json has all.
_HEADLINES = {"clusters": "nmi", "retrieval": "video_to_audio.pair.10"}


def headline(protocol: str, metrics: Collection[str] = ()) -> str:
    """Return the name of the metric that stands for a protocol in tables and curves.

    Of a retrieval whose `metrics` are of other modalities it is the first recall of another modality's clip.
    """
    name = _HEADLINES.get(protocol, "accuracy")
    others = sorted(metric for metric in metrics if "_to_" in metric and metric.endswith(".pair.10"))
    return others[0] if others and name not in metrics else name


def read_results(directory: Path) -> Results:
    """Read results.json of an eval stage's directory. Raises StageError as `read_document` does."""
    return read_document(Results, directory / FILE_NAME, "eval")


def write_results(directory: Path, results: Results) -> None:
    """Write results.json into an eval stage's directory."""
    write_document(directory / FILE_NAME, results)
