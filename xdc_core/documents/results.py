"""results.json: what an evaluation of a round's encoders measured."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

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
    """What came out. `train` and `test` count recordings; `chosen` has the candidates and their held-out scores."""

    model_config = ConfigDict(extra="forbid")

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


# The metric of a protocol that stands for it where there is room for one; results.json has all.
_HEADLINES = {"clusters": "nmi", "retrieval": "video_to_audio.pair.10"}


def headline(protocol: str) -> str:
    """Return the name of the metric that stands for a protocol in tables and curves."""
    return _HEADLINES.get(protocol, "accuracy")


def read_results(directory: Path) -> Results:
    """Read results.json of an eval stage's directory. Raises StageError as `read_document` does."""
    return read_document(Results, directory / FILE_NAME, "eval")


def write_results(directory: Path, results: Results) -> None:
    """Write results.json into an eval stage's directory."""
    write_document(directory / FILE_NAME, results)
